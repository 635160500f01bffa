import tests.world  # noqa: F401 - worker processes of this room are forked from one that has imported everything
