"""What is computed: frozen backbone, memory bank, FDSL heads, local windows, detector, losses."""
