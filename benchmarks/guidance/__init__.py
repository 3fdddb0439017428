"""How near guides and restorations come to a known posterior."""
