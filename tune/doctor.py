"""`ups doctor`: what would spoil a night, found in a minute. One finding a line, with its remedy."""

from __future__ import annotations

import tune.ray_env  # isort: skip  (before Ray)

import contextlib
import hashlib
import os
import platform
import shutil
import stat
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import ray

import tune
import ups
from tune.cluster import NODE_SECONDS, joined, live_nodes, on_every_node
from tune.search import embedded_ray
from ups.core.errors import UserError
from ups.core.objects import Objects, StoreUnreachable, file_system, is_transient
from ups.core.runtime import cache_folder
from ups.core.store_uri import check, is_uri

T = TypeVar("T")

FREE_GIB = 5.0
"""a node with less on a disk that a search writes to is reported"""
FULL = 0.95
"""share in use above which Ray itself refuses to write objects (RAY_local_fs_capacity_threshold)"""
STORE_SECONDS = 30.0
"""within which a store has done all that it is asked"""
PACKAGES = ("torch", "ray", "optuna", "numpy")


@dataclass(frozen=True)
class Finding:
    ok: bool
    what: str
    """such as `token`, or `disk`"""
    detail: str
    node: str = ""
    """empty for what concerns the whole cluster"""
    remedy: str = ""

    def __str__(self) -> str:
        where = f" [{self.node}]" if self.node else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{'ok   ' if self.ok else 'WRONG'}  {self.what}{where}: {self.detail}{remedy}"


def examine(address: str | None = None, store: str | None = None) -> Iterator[Finding]:
    """Every finding as it is made; without an address, of a Ray that is started on this machine for the purpose.

    Raises:
        UserError: an address or a store that is none.
    """
    if store is not None:
        _check_uri(store)
    if address is not None and address.startswith("ray://"):
        # what `joined` refuses in words is a mistake of the command line and no state of the cluster
        with joined(address):
            pass
    yield token(needed=address is not None)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(embedded_ray(1) if address is None else joined(address))
        except UserError as error:
            rule, _, remedy = str(error).removeprefix("--address: ").partition("; ")
            yield Finding(False, "cluster", rule, remedy=remedy)
            return
        nodes = live_nodes()
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        where = "Ray starts on this machine" if address is None else f"joined {address}"
        yield Finding(True, "cluster", f"{where}: {len(nodes)} nodes, {cpus:g} CPUs, {gpus:g} GPUs")
        if address is not None:
            yield dashboard()
        yield from each_node()
        if store is not None:
            yield from shared_store(store)


def token(needed: bool, environment: Mapping[str, str] = os.environ) -> Finding:
    """Whether there is a token here that nobody else can read; that a cluster accepts it is found by joining."""
    mode = environment.get("RAY_AUTH_MODE", "")
    if mode != "token":
        detail = f"authentication is off (RAY_AUTH_MODE={mode}): who reaches the cluster's ports can run anything on it"
        return Finding(False, "token", detail, remedy="leave RAY_AUTH_MODE out, and give every node the same token")
    if environment.get("RAY_AUTH_TOKEN"):
        return Finding(True, "token", "from RAY_AUTH_TOKEN")
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.is_file() or not path.stat().st_size:
        if not needed and "RAY_AUTH_TOKEN_PATH" not in environment:
            return Finding(True, "token", f"Ray makes {path} when it starts")
        remedy = "make one with `ray get-auth-token --generate`, and give every node the same"
        return Finding(False, "token", f"there is none in {path}", remedy=remedy)
    if _others_can_read(path):
        detail = f"others on this machine can read {path} (mode {stat.S_IMODE(path.stat().st_mode):o})"
        return Finding(False, "token", detail, remedy=f"chmod 600 {path}")
    return Finding(True, "token", f"in {path}, which its owner alone can read")


def _others_can_read(path: Path) -> bool:
    is_open = path.stat().st_mode & 0o077 & 0o044
    return bool(is_open) and all(folder.stat().st_mode & 0o011 for folder in path.absolute().parents)


def dashboard() -> Finding:
    """Whether the head's dashboard process answers; a search does without it."""

    def ask() -> str | None:
        from ray.util.state import list_nodes

        try:
            list_nodes(limit=1, timeout=10)
        except Exception as error:  # whatever it is, it does not answer
            return (str(error).strip().splitlines() or [type(error).__name__])[0]
        return None

    head = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_retries=0)(ask)
    try:
        said = ray.get(head.remote(), timeout=NODE_SECONDS)
    except ray.exceptions.RayError as error:
        said = type(error).__name__
    if said is None:
        return Finding(True, "dashboard", "its process answers")
    remedy = "to see the cluster on a page, install ray[default] on the head and start it with --include-dashboard=true"
    return Finding(True, "dashboard", f"its process does not answer ({said}), and no search needs it; {remedy}")


@dataclass(frozen=True)
class _Seen:
    """What a node says of itself."""

    versions: dict[str, str]
    devices: int
    """GPUs that torch can use"""
    disks: dict[str, tuple[float, float]]
    """path -> GiB free, share in use"""
    gpus: float = field(default=0.0)
    """that Ray hands out"""


def each_node() -> Iterator[Finding]:
    """Versions, GPUs and disks of every node."""
    here = _look()
    for node, seen in on_every_node(_look):
        if isinstance(seen, str):
            remedy = "see its logs (`ray logs cluster`), and that it can be reached and has this Python and Ray"
            yield Finding(False, "node", f"does not answer: {seen}", node, remedy)
            continue
        yield _versions(node, seen, here)
        yield _gpus(node, seen)
        for path, (free, used) in seen.disks.items():
            full = free < FREE_GIB or used > FULL
            remedy = f"free some, or point {_variable(path)} to another disk there" if full else ""
            detail = f"{free:.1f} GiB free ({used:.0%} in use) at {path}"
            if full:
                detail += f", a search needs {FREE_GIB:g} GiB and at most {FULL:.0%} in use"
            yield Finding(not full, "disk", detail, node, remedy)


def _look() -> _Seen:
    """Runs on the node."""
    import torch

    versions = {"python": platform.python_version(), "ups": _sources()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "none"
    disks = {}
    for path in {tempfile.gettempdir(), str(cache_folder())}:
        present = next(folder for folder in (Path(path), *Path(path).absolute().parents) if folder.exists())
        usage = shutil.disk_usage(present)
        disks[path] = (usage.free / 2**30, usage.used / (usage.used + usage.free))
    own = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    gpus = next((node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["NodeID"] == own), 0.0)
    return _Seen(versions, torch.cuda.device_count(), disks, gpus)


def _sources() -> str:
    """Eight digits that change with the code of this project."""
    digest = hashlib.sha256()
    for module in (ups, tune):
        root = Path(module.__file__ or "").parent
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _versions(node: str, seen: _Seen, here: _Seen) -> Finding:
    listed = ", ".join(f"{name} {found}" for name, found in seen.versions.items())
    others = [f"{name} {seen.versions[name]}, here {found}" for name, found in here.versions.items()]
    others = [
        text for text, name in zip(others, here.versions, strict=True) if seen.versions[name] != here.versions[name]
    ]
    if not others:
        return Finding(True, "versions", listed, node)
    return Finding(
        False, "versions", "; ".join(others), node, "install what constraints.txt says on every node, or use one image"
    )


def _gpus(node: str, seen: _Seen) -> Finding:
    if seen.devices == seen.gpus:
        none = "none, trials train on CPUs"
        return Finding(True, "GPU", f"{seen.devices}, for torch and for Ray" if seen.devices else none, node)
    detail = f"Ray hands out {seen.gpus:g}, torch can use {seen.devices}"
    if seen.gpus > seen.devices:
        return Finding(
            False, "GPU", detail, node, "check `nvidia-smi` there, and install a torch that is built for CUDA"
        )
    return Finding(False, "GPU", detail, node, f"start the node with `ray start --num-gpus={seen.devices}`")


def _variable(path: str) -> str:
    return "UPS_CACHE" if path == str(cache_folder()) else "TMPDIR and `ray start --temp-dir`"


@dataclass(frozen=True)
class _Tried:
    """What came of trying a store."""

    file: str | None
    """that was written"""
    refusal: str = ""
    """what is not possible, in words"""
    is_silent: bool = False
    """whether nobody answered"""

    def finding(self, who: str, node: str = "") -> Finding:
        remedy = "create it, give this user the right to write, and see that its credentials are in the environment"
        remedy += " of that node, too" if node else ""
        if self.is_silent:
            remedy = "see that its server runs, and can be reached from there (for S3, AWS_ENDPOINT_URL says another)"
        return Finding(False, "store", f"{who}cannot {self.refusal}", node, remedy)


def shared_store(uri: str) -> Iterator[Finding]:
    """Whether every node can write, rename and read there, and whether it is one place for all of them.

    Everybody is given `STORE_SECONDS`.
    """
    mark, seconds = uuid.uuid4().hex, STORE_SECONDS
    ours = _try_store(uri, mark, "driver", None, seconds)
    if ours.refusal:
        yield ours.finding("this process ")
    for node, found in on_every_node(_task(uri, mark, ours.file, seconds)):
        tried = _Tried(None, found) if isinstance(found, str) else found
        if tried.refusal:
            yield tried.finding("", node)
        elif ours.file is not None and not _is_there(uri, tried.file):
            detail = "what it writes is not seen here: it has a folder of its own under this name"
            yield Finding(False, "store", detail, node, "use a shared file system or an object store")
        else:
            yield Finding(True, "store", "written, renamed and read", node)
    if not ours.is_silent:
        _clean(uri, mark)


def _task(uri: str, mark: str, look_for: str | None, seconds: float) -> Callable[[], _Tried]:
    return lambda: _try_store(uri, mark, ray.get_runtime_context().get_node_id(), look_for, seconds)


def _try_store(uri: str, mark: str, name: str, look_for: str | None, seconds: float) -> _Tried:
    """Write as `name`, rename, read; and read the file of another, if there is one."""
    step, is_over = "", threading.Event()

    def begin(next_step: str) -> None:
        nonlocal step
        if is_over.is_set():  # whoever asked has gone, and removes nothing any more
            raise _NoAnswer(step)
        step = next_step

    def act() -> str:
        begin("open the store")
        files, root = file_system(uri)
        folder = f"{root.rstrip('/')}/.doctor-{mark}"
        begin("write")
        files.makedirs(folder, exist_ok=True)
        files.pipe_file(f"{folder}/{name}.tmp", name.encode())
        begin("rename")
        files.mv(f"{folder}/{name}.tmp", f"{folder}/{name}")
        begin("read back what it wrote")
        if files.cat_file(f"{folder}/{name}") != name.encode():
            raise OSError("other bytes came back")
        if is_uri(uri):
            begin("create an object only where there is none")
            Objects(uri).check()
        begin("read what another node wrote: the store is not one place for all")
        if look_for is not None:
            files.cat_file(look_for)
        return f"{folder}/{name}"

    try:
        return _Tried(_within(seconds, act))
    except _NoAnswer as error:
        is_over.set()
        return _Tried(None, f"{step} ({error})", is_silent=True)
    except Exception as error:  # of any file system behind fsspec
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return _Tried(None, f"{step} ({said})", is_silent=is_transient(error) or isinstance(error, StoreUnreachable))


def _is_there(uri: str, path: str | None) -> bool:
    with contextlib.suppress(Exception):  # one that has fallen silent meanwhile shows nothing
        return path is not None and bool(_within(STORE_SECONDS, lambda: file_system(uri)[0].exists(path)))
    return False


def _clean(uri: str, mark: str) -> None:
    def act() -> None:
        files, root = file_system(uri)
        files.rm(f"{root.rstrip('/')}/.doctor-{mark}", recursive=True)

    with contextlib.suppress(Exception):  # what it could not write it cannot remove
        _within(STORE_SECONDS, act)


class _NoAnswer(Exception):
    """Somebody does not answer, and does not say so either."""


def _within(seconds: float, act: Callable[[], T]) -> T:
    """What `act` gives; it is left behind when it takes longer.

    Raises:
        _NoAnswer: it does. What `act` raises passes through.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(act())
        except BaseException as error:
            answer.set_exception(error)

    # a daemon: a server, or a file system, may keep it for ever
    threading.Thread(target=run, name="asks a store", daemon=True).start()
    if not wait([answer], seconds).done:
        raise _NoAnswer(f"no answer in {seconds:g} s")
    return answer.result()


def _check_uri(uri: str) -> None:
    try:
        check(uri)
    except UserError as error:
        raise UserError(f"--store: {error}") from None
