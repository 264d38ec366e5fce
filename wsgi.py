from horde_proxy import create_app, logs

logs.configure_console()
app = create_app()
# What an earlier process has left is gone on with.
app.extensions["composition"].jobs.ensure_started()
