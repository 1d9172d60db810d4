"""What every room stands on: settings, requests and answers, errors, plain pictures.

Imports nothing else of the studio.
"""
