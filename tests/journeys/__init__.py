"""Long checks on real runs, started by hand: they print a table. ``make test`` does not run them."""
