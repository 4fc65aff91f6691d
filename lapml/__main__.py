from lapml.cli import app

app()
