"""The app: the model in a browser, and over HTTP.

``tasks`` says what can be asked for and does it, ``uploads`` what may be given, ``jobs`` runs one job at a
time, ``view`` draws: none of them knows Gradio. ``page`` lays the page out, ``serve`` serves it.
"""
