"""Warnings about a run that continues: in ComfyUI's console, and in the node that runs."""

from __future__ import annotations

import logging


def tell(text: str) -> None:
    """Show a sentence; the node keeps it until its next run."""
    from server import PromptServer  # loaded by then; importing it where there is no server would start half of one

    logging.warning(f"MC-SJD: {text}")
    server = getattr(PromptServer, "instance", None)
    if server is not None and server.last_node_id is not None:
        server.send_progress_text(text, server.last_node_id)
