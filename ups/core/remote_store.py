"""The artifact store behind a URI of fsspec, such as s3://bucket/path, with a cache of folders on each machine.

manifests/ab12...json           an artifact, named by the sha256 of its key: its facts, its checksums, and which blobs
blobs/ab12.../<time>-<random>/  the files of one upload, never changed
used/ab12...                    Unix time of the latest use
leases/, pins/, damaged/        as in a folder (`ups.core.artifacts`)

An upload has a prefix of its own, and its manifest is written last: a reader sees all of one upload or nothing. Of two
that publish the same artifact the last one's manifest stays; both did the same work, and the blobs of the other are
collected. What a reader gets is checked against the checksums and kept in the cache under the name of the upload.

While a stage trains, its checkpoints go here as an artifact of their own, replaced by each later one and removed when
the stage is published: whoever takes over on another machine begins there.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ups.core.artifacts import ArtifactStore
from ups.core.errors import DataError
from ups.core.leases import Lease, Leases
from ups.core.numbered import NumberedObjects
from ups.core.objects import Objects
from ups.core.runtime import cache_folder, sha256_of
from ups.core.store import MANIFEST, Artifact, Store, digest_of, pin_from_json, pin_to_json
from ups.core.store_uri import folder_of, is_uri
from ups.core.unfinished import Mirror
from ups.core.uploads import Upload, manifest_of, parsed, unfinished_of, used_of

CACHE_BYTES = 50 * 10**9
"""of one store on one machine, and never more than half of what its disk could hold"""
ABANDONED_SECONDS = 86_400.0
"""blobs that no manifest names after so long belong to nobody"""


def open_store(place: Path | str) -> Store:
    """The store at a place: a folder, or a URI of fsspec.

    Raises:
        UserError: a URI with credentials in it, of an unknown protocol, or one that needs a package.
    """
    if isinstance(place, Path):
        return ArtifactStore(place)
    return RemoteStore(place) if is_uri(place) else ArtifactStore(folder_of(place))


class RemoteStore(Store):
    """Artifacts behind a URI, safe for any number of machines."""

    def __init__(self, uri: str, cache: Path | None = None) -> None:
        """`cache` is a folder of this machine, by default one below the user's cache.

        Raises:
            UserError: as `open_store`.
        """
        self.objects = Objects(uri)
        folder = cache or cache_folder() / "stores" / digest_of(self.objects.uri)[:16]
        self.cache = ArtifactStore(folder, remedy="or point UPS_CACHE to another disk")
        self.leases = Leases(NumberedObjects(self.objects, "leases"))

    def __str__(self) -> str:
        return self.objects.uri

    @property
    def is_there(self) -> bool:
        return any(self.objects.sizes(each) for each in ("manifests", "leases", "pins"))

    def check(self) -> None:
        """See that the place can be a store, before a night is spent.

        Raises:
            UserError: it cannot be written or read, or of two that create the same object both may succeed.
            StoreUnreachable: no answer.
        """
        self.objects.check()

    def has(self, key: str) -> bool:
        return self.objects.read(manifest_of(digest_of(key))) is not None

    def find(self, key: str) -> Path | None:
        name = digest_of(key)
        while True:
            upload, damage = self._look(name)
            if upload is not None:
                folder, damage = self._fetch(upload)
                if folder is not None:
                    self._note_use(name)
                    return folder
            if damage is None:
                return None
            if self._look(name)[0] == upload:  # else it was removed, or published again, while it was read
                self._put_aside(name, damage)
                return None

    def publish(
        self,
        key: str,
        fill: Callable[[Path], None],
        *,
        what: str = "artifact",
        seconds: float | None = None,
        folder: Path | None = None,
    ) -> Path:
        return self.find(key) or self.replace(key, fill, what=what, seconds=seconds, made_in=folder)

    def replace(
        self,
        key: str,
        fill: Callable[[Path], None],
        *,
        what: str = "artifact",
        seconds: float | None = None,
        made_in: Path | None = None,
    ) -> Path:
        """As `publish`, whatever is there."""
        name = digest_of(key)
        blobs = f"blobs/{name}/{time.time():.0f}-{uuid.uuid4().hex}"
        self._make_room(0)
        keep = self.cache.claim(blobs, what)
        assert keep is not None, "nobody else has this name"
        # the lease keeps it in the cache until it is uploaded
        with keep:
            folder = self.cache.publish(blobs, fill, what=what, seconds=seconds, folder=made_in)
            keep.settle()
            facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            for file in facts["sha256"]:
                self.objects.put(f"{blobs}/{file}", folder / file)
            before = self._look(name)[0]
            manifest = {**facts, "key": key, "blobs": blobs}
            self.objects.write(manifest_of(name), json.dumps(manifest, indent=1).encode())
        self._note_use(name)
        if before is not None:
            self._remove_blobs(before)
        return folder

    def discard(self, key: str) -> None:
        upload = self._look(digest_of(key))[0]
        if upload is not None:
            self.objects.remove([manifest_of(digest_of(key)), used_of(digest_of(key))])
            self._remove_blobs(upload)

    def claim(
        self, key: str, what: str, *, folder: Path | None = None, reads: Sequence[str] = (), wait: bool = True
    ) -> Lease | None:
        lease = super().claim(key, what, folder=folder, reads=reads, wait=wait)
        if lease is None or folder is None:
            return lease
        name = unfinished_of(key)
        try:
            found = self.find(name)
        except BaseException:
            lease.release()
            raise
        lease.remains += () if found is None else (found,)
        Mirror(
            folder,
            lease,
            upload=lambda fill: self.replace(name, fill, what=f"{what}, unfinished", seconds=0.0),
            discard=lambda: self.discard(name),
        )
        return lease

    def pin(self, owner: str, keys: Collection[str]) -> None:
        name = f"pins/{digest_of(owner)[:16]}.json"
        if keys:
            self.objects.write(name, pin_to_json(owner, keys))
        else:
            self.objects.remove([name])

    def pins(self) -> dict[str, set[str]]:
        found = {}
        for name, content in self.objects.read_many(self.objects.sizes("pins")).items():
            try:
                owner, keys = pin_from_json(content)
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{self}/{name}: damaged, it cannot be told what it protects; delete the object"
                ) from None
            found[owner] = keys
        return found

    def ls(self) -> list[Artifact]:
        pinned = {digest_of(key) for key in self.pinned()}
        holders = list(self.leases.held())
        keys = {key for holder in holders for key in (holder.key, unfinished_of(holder.key), *holder.reads)}
        leased = {digest_of(key) for key in keys}
        used = self.objects.read_many(self.objects.sizes("used"))
        found = []
        for name, upload in self._uploads():
            if upload is not None:
                last = float(used.get(used_of(name), upload.created))
                facts = upload.key, upload.what, upload.bytes, upload.seconds, upload.created
                found.append(Artifact(*facts, last, name in pinned, name in leased, name))
        return sorted(found, key=lambda artifact: (artifact.last_used, artifact.key))

    def _remove(self, artifact: Artifact) -> bool:
        upload = self._look(artifact.name)[0]
        used = self.objects.read(used_of(artifact.name))
        if upload is None or float(used or upload.created) != artifact.last_used:
            return False
        # the manifest first: a reader finds it, and all of its blobs, or that it was removed meanwhile
        self.objects.remove([manifest_of(artifact.name), used_of(artifact.name)])
        self._remove_blobs(upload)
        return True

    def _clear_rests(self) -> None:
        self.objects.remove([*self.objects.sizes("damaged"), *(name for name, _ in self._homeless(old=True))])
        self.leases.sweep({name for name, _ in self._uploads()})

    def _bytes_being_written(self) -> int:
        return sum(size for _, size in self._homeless(old=False))

    def _homeless(self, *, old: bool) -> Iterator[tuple[str, int]]:
        """Blobs that no manifest names: of uploads that are going on or, when they are `old`, that nobody ends."""
        # blobs first: whatever is published in between has its manifest by then
        blobs = self.objects.sizes("blobs")
        named = {upload.blobs for _, upload in self._uploads() if upload is not None}
        for name, size in blobs.items():
            prefix = "/".join(name.split("/")[:3])
            begun = prefix.rpartition("/")[2].partition("-")[0]
            is_old = not begun.isdigit() or time.time() - int(begun) > ABANDONED_SECONDS
            if prefix not in named and is_old == old:
                yield name, size

    def _uploads(self) -> Iterator[tuple[str, Upload | None]]:
        """Every manifest by the name of its artifact; None for one that cannot be read."""
        for path, content in self.objects.read_many(self.objects.sizes("manifests")).items():
            yield path.removeprefix("manifests/").removesuffix(".json"), parsed(content)

    def _look(self, name: str) -> tuple[Upload | None, str | None]:
        """What is published, and what is wrong with its manifest."""
        content = self.objects.read(manifest_of(name))
        upload = None if content is None else parsed(content)
        return upload, None if content is None or upload is not None else f"{MANIFEST} cannot be read"

    def _fetch(self, upload: Upload) -> tuple[Path | None, str | None]:
        """The folder of an upload in the cache; or in words what is wrong with it."""
        folder = self.cache.find(upload.blobs)
        if folder is not None:
            return folder, None
        self._make_room(upload.bytes)
        # a second look: the first answer may have been cut off on its way
        for _ in range(2):
            damage = None

            def fill(temporary: Path) -> None:
                nonlocal damage
                damage = self._download(upload, temporary)
                if damage is not None:
                    raise _Damaged

            with contextlib.suppress(_Damaged):
                return self.cache.publish(upload.blobs, fill, what=upload.what, seconds=upload.seconds), None
        return None, damage

    def _download(self, upload: Upload, folder: Path) -> str | None:
        for name, checksum in upload.sha256.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if not self.objects.get(f"{upload.blobs}/{name}", file):
                return f"{name} is missing"
            if sha256_of(file) != checksum:
                return f"{name} is not what was published"
        return None

    def _make_room(self, size: int) -> None:
        """What the cache holds beyond its bound goes, the least recently used first."""
        self.cache.root.mkdir(parents=True, exist_ok=True)
        held = sum(artifact.bytes for artifact in self.cache.ls())
        bound = min(CACHE_BYTES, (shutil.disk_usage(self.cache.root).free + held) // 2)
        self.cache.gc(max(0, bound - size))

    def _put_aside(self, name: str, damage: str) -> None:
        """The manifest goes out of the way; its blobs are nobody's then, and are collected later."""
        content = self.objects.read(manifest_of(name))
        if content is None:
            return
        upload = parsed(content)
        if upload is not None and upload.folder is not None:
            self.leases.leave(name, upload.key, upload.what, Path(upload.folder))
        aside = f"damaged/{name[:12]}.{uuid.uuid4().hex}.json"
        self.objects.write(aside, content)
        self.objects.remove([manifest_of(name)])
        where = f"{self}/{manifest_of(name)}"
        warnings.warn(
            f"{where}: damaged artifact, {damage}; it is made anew, its manifest is in {self}/{aside}", stacklevel=3
        )

    def _note_use(self, name: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # somebody else's store, which can be read
            self.objects.write(used_of(name), repr(time.time()).encode(), patience=0.0)

    def _remove_blobs(self, upload: Upload) -> None:
        self.objects.remove(f"{upload.blobs}/{file}" for file in upload.sha256)
        self.cache.discard(upload.blobs)


class _Damaged(Exception):
    """What was downloaded is not what was published."""
