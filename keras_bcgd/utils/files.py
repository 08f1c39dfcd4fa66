"""Files that are written whole or not at all."""

import contextlib
import errno
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


def check_folder(path, overwrite=False):
    """Raises if `write_folder` would not write into a folder.

    Args:
        path: String or path-like, the folder.
        overwrite: Boolean. Whether it may hold something. Defaults to
            `False`.

    Returns:
        Boolean, whether the folder exists.

    Raises:
        ValueError: If it holds something.
        OSError: If it is none.
    """
    if not os.path.lexists(path):
        return False
    if os.listdir(path) and not overwrite:
        raise ValueError(
            "`directory` must be new or empty, unless `overwrite` is True "
            f"(--force). Received: directory={os.fspath(path)!r}"
        )
    return True


def write_folder(path, contents, overwrite=False):
    """Writes files into a folder, whole or not at all.

    They are written elsewhere first and renamed. In a folder that exists those
    of the same names are replaced one by one, and others stay.

    Args:
        path: String or path-like, the folder; it is made in one that exists.
        contents: Dict from the names of files to bytes.
        overwrite: Boolean. Whether the folder may hold something. Defaults to
            `False`.

    Raises:
        ValueError: If the folder holds something, without `overwrite`.
        OSError: If it cannot be written; nothing is left behind.
    """
    exists = check_folder(path, overwrite)
    path = os.path.realpath(os.fspath(path))
    try:
        with tempfile.TemporaryDirectory(
            prefix=".",
            suffix=".part",
            dir=path if exists else os.path.dirname(path),
        ) as temporary:
            part = os.path.join(temporary, "files")
            os.mkdir(part)
            for name, data in contents.items():
                write_atomically(os.path.join(part, name), data)
            if exists:
                _replace(part, path, contents)
            else:
                os.rename(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _replace(part, path, names):
    """Moves files into a folder, or none if a folder has one's name."""
    if any(os.path.isdir(os.path.join(path, name)) for name in names):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    for name in names:
        os.replace(os.path.join(part, name), os.path.join(path, name))


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
