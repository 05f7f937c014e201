"""The example graphs by the names of their files; `make_workflows.py` writes them out."""

from __future__ import annotations

import graphs_embedded
import graphs_public
import graphs_video
from graph_parts import Workflow

WORKFLOWS: dict[str, Workflow] = dict(
    sorted({**graphs_embedded.GRAPHS, **graphs_public.GRAPHS, **graphs_video.GRAPHS}.items())
)
