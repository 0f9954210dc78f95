"""keras-kd profile: what a model costs, and what a step of training does."""

import click

from keras_kd.cli.base import data_dir, main, shown_log


@main.command()
@click.argument("model")
@click.option(
    "--step",
    is_flag=True,
    help="MODEL is a recipe: print the milliseconds of a step's parts, stage by stage.",
)
@data_dir
def profile(model, step, data_dir):
    """Print a MODEL's parameters and multiply-accumulates (MACs)."""
    if step:
        from keras_kd.recipes import recipe, step_cost

        with shown_log():
            costs = step_cost.step_costs(recipe.load(model), data_dir)
        click.echo(f"\n{step_cost.as_table(costs)}")
        return
    from keras_kd.evaluation.profile import profile as measure
    from keras_kd.recipes.model_files import load_model
    from keras_kd.tables import shown_count

    cost = measure(load_model(model))
    click.echo(
        f"parameters  {cost.parameters:,}\n"
        f"MACs        {shown_count(cost.macs)}  "
        "half of all float operations, as published\n"
        f"pure MACs   {shown_count(cost.pure_macs)}  "
        "matrix products and convolutions alone"
    )
    if cost.unknown:
        click.echo(cost.unknown)
