"""One run and many: what names it, trains it, keeps it, ships it, and trains it again. Knows no algorithm."""
