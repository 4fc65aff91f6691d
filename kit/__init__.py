"""A suite on a machine that reaches nothing: the pieces that travel there, what runs there, and the runs that come back.

`kit make` works where lapml is installed. The code on the other machine starts with the standard library, and
then uses the packages that docs/offline.md lists and the few that the pieces bring.
"""
