"""Beartype with the numeric tower: an int is a float, as in a type checker."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
