"""What a job may use of its machine."""

from dataclasses import dataclass, fields

__all__ = ["JobLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """Bounds on one job. Linux holds those on memory and open files for each of its processes, not for their sum.

    `scratch_bytes` is the room in its working folder, which lies in memory. `file_bytes` bounds every file and every
    piece of shared memory, so that a model has to fit. `processes` (and threads) hold for a confined job only.
    """

    memory_bytes: int = 16 << 30
    scratch_bytes: int = 256 << 20
    file_bytes: int = 4 << 30
    log_bytes: int = 1 << 20
    processes: int = 1024
    """On a machine of many cores torch and numpy have several threads for each."""
    open_files: int = 256
    start_s: float = 120.0
    """For its process to be there."""
    call_s: float = 3600.0
    """For anything that it is asked; a plan's deadline may be shorter."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name}: expected more than 0, got {getattr(self, field.name)}")
