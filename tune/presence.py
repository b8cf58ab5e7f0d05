"""Who searches a shared study: every driver says that it lives, and watches whether the others do.

A driver writes a beat into an attribute of the study every few seconds, from a thread, so that a long proposal does
not look like a death. Another one is dead for us when its beat has not changed for a while **by our own clock**: the
clocks of two machines may differ, and the database's may be set.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

BEAT_SECONDS = 5.0
DEAD_SECONDS = 45.0
"""without a beat for so long, a driver is dead and its trials are taken up by others"""
_PREFIX = "driver:"

# beats carry the database's time, one clock for all that only look
_BEAT = text(
    "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (:study, :key, "
    "(CAST(:card AS jsonb) || jsonb_build_object('beat', extract(epoch FROM clock_timestamp())))::text) "
    "ON CONFLICT (study_id, key) DO UPDATE SET value_json = excluded.value_json"
)
_CARDS = text(
    "SELECT key, value_json, CAST(extract(epoch FROM clock_timestamp()) AS double precision) "
    "FROM study_user_attributes WHERE study_id = :study AND key LIKE 'driver:%'"
)


class Presence:
    """The beats of this driver, and what it makes of those of the others."""

    def __init__(self, engine: Engine, study_id: int, driver: str, folder: Path) -> None:
        self._engine = engine
        self._study_id = study_id
        self._driver = driver
        self._card = {**whereabouts(folder), "pid": os.getpid(), "started": round(time.time())}
        self._watch = Watch()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beats", daemon=True)

    def start(self) -> None:
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye: what this driver leaves open may be taken up at once. Without a database nobody hears it."""
        self._end.set()
        self._thread.join()
        self._card["ended"] = True
        try:
            self._beat()
        except SQLAlchemyError:
            return

    def is_dead(self, driver: str) -> bool:
        return self._watch.is_dead(driver, time.monotonic())

    def _run(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            try:
                self._beat()
            except SQLAlchemyError:
                continue  # the thread that searches has the patience, and the last word

    def _beat(self) -> None:
        with self._engine.begin() as connection:
            values = {"study": self._study_id, "key": _PREFIX + self._driver, "card": json.dumps(self._card)}
            connection.execute(_BEAT, values)
            cards = read_cards(connection, self._study_id)
        self._watch.look({driver: card for driver, (card, _) in cards.items()}, time.monotonic())


class Watch:
    """Since when nothing was heard of each driver, by the clock of the one who watches."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float | None, float]] = {}
        self._ended: frozenset[str] = frozenset()
        self._looked = float("-inf")

    def look(self, cards: dict[str, dict[str, Any]], now: float) -> None:
        """Take in what every driver has written; `now` in seconds."""
        if now - self._looked > DEAD_SECONDS / 2:
            # we were away ourselves, and so may the database have been: nobody could say anything in that time
            self._heard.clear()
        self._looked = now
        for driver, card in cards.items():
            if driver not in self._heard or self._heard[driver][0] != card["beat"]:
                self._heard[driver] = (card["beat"], now)
        self._ended = frozenset(driver for driver, card in cards.items() if card.get("ended"))

    def is_dead(self, driver: str, now: float) -> bool:
        """Whether the driver said goodbye, or nothing new for `DEAD_SECONDS`; of one never heard of they begin here."""
        if driver in self._ended:
            return True
        _, since = self._heard.setdefault(driver, (None, now))
        # what was not looked at for a while says nothing
        return now - since > DEAD_SECONDS and now - self._looked <= DEAD_SECONDS / 2


def read_cards(connection: Connection, study_id: int) -> dict[str, tuple[dict[str, Any], float]]:
    """Driver -> what it wrote, and how many seconds ago by the database's clock."""
    rows = connection.execute(_CARDS, {"study": study_id}).all()
    cards = {key.removeprefix(_PREFIX): (json.loads(card), now) for key, card, now in rows}
    return {driver: (card, now - card["beat"]) for driver, (card, now) in cards.items()}


def whereabouts(folder: Path) -> dict[str, Any]:
    """What tells a STUDY folder from its copy."""
    return {"host": socket.gethostname(), "folder": str(folder.absolute())}
