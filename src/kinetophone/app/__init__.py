"""The app: the model in a browser, and over HTTP.

``tasks`` says what can be asked for and does it, ``uploads`` what may be given, ``reading`` reads it in a
process of its own, ``jobs`` runs one job at a time, ``folder`` deletes what is due, ``origins`` refuses other
sites' pages, ``view`` draws: none of them knows Gradio. ``page`` lays the page out, ``serve`` serves it.
"""
