"""The browser pages: FastAPI with Gradio mounted, over the same `Workbench` as the command line."""
