"""The messages of secure aggregation, their binary form, and what is signed.

A message is `WSA`, the version as the digit 1, one byte for its kind, and its fields in the order of their
declaration (`wire`). Members are named once, in the roster; from then on by their index in it. Of one value there is
one encoding, so that equal digests mean equal messages.

    kind  message            from, to            step
       1  Hello              member to server    epoch 1
       2  Roster             server to members   epoch 2
       3  RosterSignature    member to server    epoch 2
       4  RosterSignatures   server to members   epoch 3
       5  RoundStart         server to members   M0
       6  Masked             member to server    M1
       7  SurvivorOffer      server to member    M2
       8  SurvivorSignature  member to server    M2
       9  UnmaskRequest      server to members   M3
      10  UnmaskAnswer       member to server    M3
      11  Published          server to members   result
      12  Refusal            either              any
      13  GroupTable         hashed, never sent alone
      14  Descriptor         hashed, sent in a RoundStart
      15  Header             hashed, sent in a Masked and in a SurvivorOffer
      16  SurvivorList       hashed and signed, never sent

What is signed is `wardround secagg 1`, a zero byte, the domain in a byte for its length and ASCII, the run (2 bytes for
its length, UTF-8), epoch (4), round (4) and committee (2), and then the domain's body. No two domains, runs, epochs,
rounds or committees share an input, so no signature is of use elsewhere. In an epoch's inputs round and committee are 0.

    domain      body
    hello       the fields of the Entry
    roster      SHA-256 of the Roster
    descriptor  h
    M1          h, SHA-256 of the Header
    U           h, SHA-256 of the SurvivorList
    reports     h, the reports (4 bytes for their number, then each)
    result      h, the groups (4 bytes for their number, then each)

h is SHA-256 of the Descriptor. These SHA-256 are of the whole binary form, kind included. An Unmask­Answer is not signed:
each opening proves itself against a root that its dealer has signed. What is checked here is form; whether a signature,
a digest or a threshold holds is for the state machines.
""".replace("\u00ad", "")
