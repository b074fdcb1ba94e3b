"""Who can do what, who does what, and where the next job goes. Pure: events in, decisions out."""
