from horde_proxy import create_app, logs

logs.configure_console()
app = create_app()
