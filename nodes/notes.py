"""What is to be said of a run that continues: in ComfyUI's console, and in the node that runs."""

from __future__ import annotations

import logging

from .types import in_node

EVENT = "mcsjd.text"  # web/js/text.js shows what it brings


def tell(note: str) -> None:
    """Say it in the console, and in the node as soon as it runs; the empty note takes an earlier run's away from there.

    It has to be a part of the node's result as well (`in_node`): results that ComfyUI has kept bring back their own.
    """
    from server import PromptServer  # loaded by then; importing it where there is no server would start half of one

    if note:
        logging.warning(f"MC-SJD: {note}")
    server = getattr(PromptServer, "instance", None)
    if server is not None and server.client_id is not None and server.last_node_id is not None:
        server.send_sync(EVENT, {"node": server.last_node_id, "output": in_node(note)}, server.client_id)
