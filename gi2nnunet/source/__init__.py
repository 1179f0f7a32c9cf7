"""Sources that a user gives: opened, checked, or made up."""
