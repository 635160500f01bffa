"""What the programs share: how they are started, what they say, parts of the user's own."""
