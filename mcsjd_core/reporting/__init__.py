"""What a run cost and why: figures, charts, tables and contact sheets."""
