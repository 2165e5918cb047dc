"""The server's side of homomorphic aggregation over any Flower Grid: keys of epochs, rounds, sums that members tell.

Epochs, their rosters and their time are those of masking (`secagg/masking`). When one is ready a member makes its key;
see `key_ceremony`. The server has public parameters, ciphertexts, and in the end the sum that it is told.

Where a plan wants the released model sealed, what it is sealed to is durable in the federation's store, under
`secagg-server/<run>/he-archive`: number, key's fingerprint and archive key of the newest epoch, as JSON.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from flwr.serverapp import Grid

from wardround.contribution import Contribution
from wardround.errors import LocalError, RemoteError
from wardround.identity import Revocations
from wardround.orders import Order, OrderKind, SiteId
from wardround.strategies.he.he_plan import Form
from wardround.strategies.he.key_ceremony import check_deal
from wardround.strategies.he.messages import KeyAccepted, KeyDeal, KeyHeader, KeyOffer, KeyRequest
from wardround.strategies.he.scheme import PublicContext, SecretKeyError
from wardround.strategies.he.sealed_model import seal_model
from wardround.strategies.he.server_round import EncryptedServerRound
from wardround.strategies.he.terms import packing_for
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.exchange import Exchange
from wardround.strategies.secagg.lane import lane_size, rotation_seed
from wardround.strategies.secagg.masking import Masking
from wardround.strategies.secagg.messages import Cause, Descriptor
from wardround.strategies.secagg.phases import Outgoing, RefusedError
from wardround.strategies.secagg.plan_terms import encoding_of, he_plan_of
from wardround.strategies.secagg.round_evidence import Stage
from wardround.strategies.secagg.round_setting import RoundMachine, RoundSetting
from wardround.strategies.secagg.wire import Record

__all__ = ["Homomorphic"]

_log = logging.getLogger("wardround")


@dataclass(frozen=True, slots=True, kw_only=True)
class _PublicKey:
    """What the server has of an epoch's key."""

    context: PublicContext
    form: Form
    fingerprint: bytes
    archive: bytes
    refused: frozenset[str]
    """Members who have another key, or none, and have said so or were asked for one: their updates are not added."""


class Homomorphic(Masking):
    """A `Protection` by homomorphic encryption: the sum of the members who answer is one contribution.

    An epoch whose round is aborted after its list was made is over: a member that saw a forged sum has erased its key.
    """

    _public: _PublicKey | None = None

    @property
    def scheme(self) -> str:
        """Form and fingerprint of the epoch's key."""
        if self._public is None:
            return ""
        return f"bfv-{self._public.form.name.lower()}, key {self._public.fingerprint.hex()[:16]}"

    def collect(self, grid: Grid, order: Order, model: bytes | None = None) -> Iterator[Contribution]:
        """The mean of the updates that came, or nothing; sites that are not in it become absences."""
        yield from super().collect(grid, order, model)
        record = self.record
        if record is not None and record.aborts and not any(group.survivors for group in record.groups):
            self.end_epoch()

    def renew(self, revocations: Revocations) -> None:
        """Hold members of the next epoch to this list, and begin it with the next order: its key is a new one."""
        super().renew(revocations)
        self.end_epoch()

    def machine_of(self, order: Order, model: bytes | None) -> Callable[[RoundSetting, Descriptor], RoundMachine]:
        """What makes the machine of a round with this epoch's public parameters."""
        if self._public is None:
            raise LocalError("expected a key for this epoch, got none")
        encoding = None
        if order.kind is OrderKind.FIT:
            encoding = encoding_of(self._plan, len(model or b"") // 4, seed=rotation_seed(order))
        packing = packing_for(self._plan, encoding, lane_size(self._plan, order.kind, self._specs[order.kind]))
        key = self._public
        return partial(EncryptedServerRound.begin, packing=packing, context=key.context, refused=key.refused)

    def begin_epoch(self, exchange: Exchange) -> Cohort | None:
        """The cohort of a new epoch whose members have its key; those who do not get it sit the epoch out."""
        self._public = None
        cohort = super().begin_epoch(exchange)
        if cohort is None:
            return None
        asked = set[str]()
        first = cohort.epoch % cohort.size  # another one in each epoch: who deals badly must not end the run
        for dealer in (*cohort.names[first:], *cohort.names[:first]):
            if dealer in self._bad_dealers:
                continue
            asked.add(dealer)  # who answers too late, or badly, has a key of its own all the same
            dealt = self._dealt(exchange, cohort, SiteId(dealer))
            if dealt is None:
                continue
            deal, context = dealt
            have = self._handed_out(exchange, cohort, dealer, deal)
            least = max(cohort.threshold(0), cohort.parameters.min_survivors)
            if len(have) < least:
                missing = [SiteId(name) for name in cohort.names if name not in have or name == dealer]
                for site in missing:  # it may be the dealer's doing: a run where every site fails ends at once
                    exchange.absences[site] = replace(exchange.absences[site], failed=False)
                exchange.evidence.abort(
                    Cause.TOO_FEW_MEMBERS.name,
                    missing,
                    f"epoch {cohort.epoch}: expected {least} members to take {dealer}'s key, got {len(have)}",
                )
                return None
            header = deal.header
            if self._plan.protection.sealed_model:
                self._keep_archive(header)
            self._public = _PublicKey(
                context=context,
                form=header.form,
                fingerprint=header.fingerprint,
                archive=header.archive,
                refused=frozenset(
                    name
                    for name in cohort.names
                    if name not in have and (name in asked or exchange.absences[SiteId(name)].failed)
                ),
            )
            _log.info(
                "epoch %d: %s made its key %s for %d members", cohort.epoch, dealer, header.fingerprint.hex(), len(have)
            )
            return cohort
        exchange.evidence.abort(Cause.TOO_FEW_MEMBERS.name, (), f"epoch {cohort.epoch}: no member made a key")
        return None

    def seal(self, data: bytes) -> bytes:
        """The file of a released model, sealed to those who have the key of the newest epoch, also after a restart.

        Raises LocalError where no epoch of the run had a key, or its archive key is none.
        """
        stored = self._federation.store.get(self._archive_key)
        if stored is None:
            raise LocalError(
                f"run {self._federation.run}: expected an epoch with a key, got none; there is nobody whom its model "
                "could be sealed to, so that it is not kept"
            )
        try:
            kept = json.loads(stored)
            public, fingerprint = bytes.fromhex(kept["archive"]), bytes.fromhex(kept["fingerprint"])
            return seal_model(data, public, run=self._federation.run, epoch=int(kept["epoch"]), fingerprint=fingerprint)
        except (ValueError, KeyError, TypeError) as error:
            raise LocalError(
                f"{self._archive_key}: expected an archive key of members, got another ({error})"
            ) from None

    def _keep_archive(self, header: KeyHeader) -> None:
        kept = {"epoch": header.epoch, "fingerprint": header.fingerprint.hex(), "archive": header.archive.hex()}
        self._federation.store.put(self._archive_key, json.dumps(kept).encode())

    @property
    def _archive_key(self) -> str:
        return f"secagg-server/{self._federation.run}/he-archive"

    def _dealt(self, exchange: Exchange, cohort: Cohort, dealer: SiteId) -> tuple[KeyDeal, PublicContext] | None:
        """The key that `dealer` makes, checked: above all that the server gets no secret with it."""
        found: list[tuple[KeyDeal, PublicContext]] = []

        def take(site: SiteId, message: Record) -> None:
            if not isinstance(message, KeyDeal):
                raise RemoteError(f"expected a key, got {type(message).__name__}")
            name = check_deal(cohort, message)
            if name != site:
                raise RefusedError(Cause.SIGNATURE, site, f"expected a key of its own making, got one of {name}")
            try:
                context = PublicContext(he_plan_of(self._plan), message.header.context)
            except RemoteError as error:
                cause = Cause.SECRET_KEY if isinstance(error, SecretKeyError) else Cause.BAD_DEALING
                exchange.evidence.abort(cause.name, [site], f"epoch {cohort.epoch}: {error}")
                _log.warning("%s: %s", site, error)
                self._bad_dealers.add(site)
                self._keep_conduct()
                raise
            found.append((message, context))

        request = KeyRequest(run=cohort.run, epoch=cohort.epoch, roster=cohort.roster)
        exchange.send(Stage.EPOCH, [Outgoing(dealer, request)], Stage.EPOCH.value, take)
        return found[0] if found else None

    def _handed_out(self, exchange: Exchange, cohort: Cohort, dealer: str, deal: KeyDeal) -> set[str]:
        """The members who have the key: the dealer, and those who took what it sealed for them."""

        def take(site: SiteId, message: Record) -> None:
            expected = KeyAccepted(run=cohort.run, epoch=cohort.epoch, fingerprint=deal.header.fingerprint)
            if message != expected:
                raise RemoteError("expected the key of this epoch to be accepted, got another answer")

        others = [name for name in cohort.names if name != dealer]
        offers = [
            Outgoing(name, KeyOffer(header=deal.header, signature=deal.signature, box=box))
            for name, box in zip(others, deal.boxes, strict=True)
        ]
        return {dealer, *map(str, exchange.send(Stage.EPOCH, offers, Stage.EPOCH.value, take))}
