"""ballonet's host coordinator: decides how much memory each guest should have, and moves real balloons."""
