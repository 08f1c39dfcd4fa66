"""Files that are written whole or not at all."""

import contextlib
import os
import tempfile


def write_atomically(path, data):
    """Writes a file whole or not at all.

    Args:
        path: String or path-like.
        data: Bytes.

    Raises:
        OSError: If the file cannot be written; nothing is left behind.
    """
    path = os.path.realpath(os.fspath(path))
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(
            prefix=".", suffix=".part", dir=os.path.dirname(path)
        )
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, path) from error
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
