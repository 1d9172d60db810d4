"""Routes of the studio's own, a file for each kind of thing: parse, call, map."""
