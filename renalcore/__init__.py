"""RenalCore: models and measures for the renal laboratory.

The model package. It knows no streamlit, no SQL and no network; heavy libraries are imported
inside the functions that need them, so that `import renalcore` stays light.
"""

__version__ = "0.1.0"
