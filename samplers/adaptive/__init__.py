"""Methods that choose their steps by a tolerance."""
