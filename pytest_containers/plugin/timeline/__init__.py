"""The report of ``--containers-report``: a page with tests, containers, images and seeds over time.

Nothing here is imported without that option. `recorder` is the plugin of pytest that collects,
`output` bounds the output of containers, `document` is what the page shows, and `page` writes it;
``page.html``, ``page.css`` and ``page.js`` are what a browser gets.
"""
