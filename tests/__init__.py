"""Makes `tests` the one of this project, also where an installed package brings a folder of that name."""
