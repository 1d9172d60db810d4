"""Many pictures of one request: sheets, X/Y grids, lists of prompts."""

from studio.features.feature import Feature
from studio.features.sheets.job import batch, grid, sheet
from studio.features.sheets.plan import plan_batch, plan_grid, plan_sheet
from studio.features.sheets.spec import BatchSpec, GridSpec, SheetSpec

SHEET = Feature(SheetSpec, plan_sheet, sheet)
GRID = Feature(GridSpec, plan_grid, grid)
BATCH = Feature(BatchSpec, plan_batch, batch)
