"""What the studio can make: one place for each kind of job."""
