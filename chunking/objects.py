"""Files and objects under one roof: a local folder and an S3-compatible bucket seen through the same calls."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Buffer, Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore
import obstore.store
from zarr.abc.store import Store
from zarr.storage import LocalStore, ObjectStore

from .errors import InputError, nearest

SCHEMES = ("s3", "gs", "az", "memory")


def address(store: str | os.PathLike[str]) -> str:
    """Return the absolute path, or the URL without trailing slash; see `store.address`."""
    if not isinstance(store, (str, os.PathLike)):
        raise InputError(f"`store` must be a path or a URL, {type(store).__name__} came.")
    text = os.fspath(store)
    if not text:
        raise InputError('`store` is empty; give a path such as "sky.zarr" or a URL such as "s3://bucket/sky.zarr".')
    if "://" not in text:
        return str(Path(text).expanduser().absolute())
    scheme = text.split("://", 1)[0]
    if scheme == "file":
        return str(Path(text.removeprefix("file://")).absolute())
    if scheme not in SCHEMES[:3]:
        raise InputError(f"`store` {text!r} has the scheme {scheme!r}; {nearest(scheme, (*SCHEMES[:3], 'file'))}.")
    return text.rstrip("/")


def is_local(where: str) -> bool:
    """Return whether an address is a path of this machine."""
    return "://" not in where


def zarr_store(where: str, *, read_only: bool = False) -> Store:
    """Return the Zarr store behind an address."""
    if is_local(where):
        # zarr's own local store writes to a temporary name and moves it: a killed writer leaves no half shard.
        return LocalStore(where, read_only=read_only)
    return ObjectStore(_bucket(where), read_only=read_only)


@functools.lru_cache(maxsize=32)
def _bucket(where: str) -> Any:
    return obstore.store.from_url(where)


def check_free(where: str) -> None:
    """Raise InputError where a file stands at the address, or a folder with something else in it."""
    if not is_local(where):
        return
    path = Path(where)
    for above in path.parents:
        if above.is_file():
            raise InputError(f"{where} lies below {above}, which is a file. Give another path.")
    if path.is_file():
        raise InputError(f"{where} is a file; a sky store is a folder. Give another path.")
    if path.is_dir() and any(entry.name not in ("zarr.json", "crs", "ledger") for entry in path.iterdir()):
        raise InputError(f"{where} is a folder that holds something else than a sky store. Give another path.")


def listing(where: str, prefix: str) -> Iterator[tuple[str, int, str]]:
    """Yield (key, bytes, version tag) of everything below a prefix; the tag changes when the content is replaced."""
    if is_local(where):
        root = Path(where)
        base = root / prefix
        if not base.is_dir():
            return
        for folder, _, files in os.walk(base):
            for file in files:
                path = Path(folder, file)
                if file.endswith(".partial"):  # what a killed writer left; zarr never reads it
                    continue
                status = path.stat()
                yield path.relative_to(root).as_posix(), status.st_size, str(status.st_mtime_ns)
        return
    for batch in obstore.list(_bucket(where), prefix=prefix):
        for entry in batch:
            yield entry["path"], int(entry["size"]), str(entry["e_tag"])


def delete_prefix(where: str, prefix: str) -> None:
    """Delete everything below a prefix, or the object of that very name."""
    if is_local(where):
        import shutil

        base = Path(where, prefix)
        if base.is_dir():
            shutil.rmtree(base, onexc=_unless_gone)
        else:
            base.unlink(missing_ok=True)
        return
    keys = [key for key, _, _ in listing(where, prefix)]
    if prefix and not keys and exists(where, prefix):  # a listing holds what is below a name, not what has it
        keys = [prefix]
    if keys:
        obstore.delete(_bucket(where), keys)


def _unless_gone(_: object, __: str, error: BaseException) -> None:
    if not isinstance(error, FileNotFoundError):  # another process may delete the same
        raise error


def put(where: str, key: str, content: bytes) -> None:
    """Write one small object whole or not at all."""
    if is_local(where):
        path = Path(where, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own for every writer: two processes may be at the same object.
        partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)  # on a full disk every byte counts
            raise
        return
    obstore.put(_bucket(where), key, content)


def put_parts(where: str, key: str, parts: Iterable[Buffer]) -> None:
    """Write one large object whole or not at all, from parts that are made one after the other."""
    if is_local(where):
        path = Path(where, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                for part in parts:
                    file.write(part)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return
    obstore.put(_bucket(where), key, (bytes(part) for part in parts))


def get_range(where: str, key: str, start: int, length: int) -> bytes | None:
    """Return some bytes of an object, or None where there is none; a negative start counts from the end."""
    if is_local(where):
        try:
            with Path(where, key).open("rb", buffering=0) as file:
                file.seek(start, os.SEEK_SET if start >= 0 else os.SEEK_END)
                return file.read(length)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:  # begins before the object does
                return b""
            raise
    try:
        if start < 0:
            start += int(obstore.head(_bucket(where), key)["size"])
        return bytes(obstore.get_range(_bucket(where), key, start=max(0, start), length=length))
    except FileNotFoundError:
        return None


def exists(where: str, key: str) -> bool:
    """Return whether there is an object of that key."""
    if is_local(where):
        return Path(where, key).is_file()
    try:
        obstore.head(_bucket(where), key)
    except FileNotFoundError:
        return False
    return True


def tag(where: str, key: str) -> tuple[int, int]:
    """Return what changes when a local object is replaced, for caches; nothing of the kind is asked over a network."""
    try:
        status = os.stat(f"{where}/{key}") if is_local(where) else None
    except OSError:
        status = None
    return (0, 0) if status is None else (status.st_mtime_ns, status.st_ino)


def get(where: str, key: str) -> bytes | None:
    """Return the content of one small object, or None where there is none."""
    if is_local(where):
        try:
            return Path(where, key).read_bytes()
        except FileNotFoundError:
            return None
    try:
        return bytes(obstore.get(_bucket(where), key).bytes())
    except FileNotFoundError:
        return None


def sweep(where: str, names: Iterable[str]) -> None:
    """Remove what killed writers left behind in the folders of some maps; object stores have no such leftovers."""
    if not is_local(where):
        return
    for name in names:
        for base in (Path(where, name), Path(where, "ledger", name)):
            for leftover in base.rglob("*.partial"):
                leftover.unlink(missing_ok=True)
