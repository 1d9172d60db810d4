"""How requests wait for the device: the queue and its one worker, a job on its way, and the log of jobs."""
