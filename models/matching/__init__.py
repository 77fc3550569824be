"""The memory bank, which of its tokens may be matched, and what differs from them."""
