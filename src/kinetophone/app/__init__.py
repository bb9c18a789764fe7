"""The app: a web page and an HTTP interface.

``tasks`` defines and runs requests, ``uploads`` checks uploaded files, and ``reading`` decodes them in a
separate process. ``jobs`` runs one job at a time, ``folder`` deletes old files, ``origins`` refuses requests
from pages of other sites, and ``view`` renders HTML. Only ``page``, the layout, and ``serve``, the server,
depend on Gradio.
"""
