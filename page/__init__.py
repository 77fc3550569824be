"""The local web page: a detector behind a small server. Started by app.py; needs requirements-app.txt."""
