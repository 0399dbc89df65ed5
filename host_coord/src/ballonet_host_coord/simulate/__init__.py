"""`ballonet simulate`: policies on recorded or generated demand, in virtual time."""
