"""What the studio keeps: pictures with their recipes inside, the image cache, uploads, and the log of jobs.

SQLite for what is searched, PNG files for what is seen; either can be read without the other. Knows the specs and views
of the base room and Pillow; it doesn't know how a picture is made, who a person is (an owner is an opaque string), or
that there are models at all.
"""
