"""The job: user code and data of one run, in a process that has no key and no network."""
