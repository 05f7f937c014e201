"""The decoding loop and what it works on. Start at `loop.py`; the loop knows no model family and no host."""
