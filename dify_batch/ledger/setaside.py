"""`--overwrite`: the old files are kept under a dated name."""

from __future__ import annotations

from dify_batch.ledger.appendfile import storage_error
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import Paths, utc
from dify_batch.seams import REAL, Clock


def set_aside(paths: Paths, disk: Disk | None = None, clock: Clock = REAL.clock) -> list[str]:
    """`--overwrite`: gives the files of an output a dated name, all the same one, so that they stay an output.

    Gives the new names. Raises StorageError.
    """
    disk = disk or Disk()
    stamp = utc(clock.wall()).replace("-", "").replace(":", "")
    output = paths.results
    kept = output.with_name(f"{output.stem}.{stamp}{output.suffix}")
    number = 1
    while any(path.exists() for path in Paths.of(kept).data):
        number += 1
        kept = output.with_name(f"{output.stem}.{stamp}-{number}{output.suffix}")
    names = []
    # The journal goes last: while it stands, the old batch can still be told whole.
    for old, new in zip(paths.data, Paths.of(kept).data, strict=True):
        if old.exists():
            try:
                disk.rename(old, new)
            except OSError as error:
                raise storage_error(old, error) from error
            names.append(str(new))
    disk.sync_folder(output)
    return names
