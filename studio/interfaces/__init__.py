"""How people and programs reach the studio: browser, HTTP and command line."""
