from keras_kd.tables import markdown_table


def test_columns_align_and_text_stays_as_it_is():
    rows = [{"model": "ta", "accuracy": "99.10"}, {"model": "student", "accuracy": "98.7"}]
    assert markdown_table(rows, numbers_from=1).splitlines() == [
        "| model   |   accuracy |",
        "|:--------|-----------:|",
        "| ta      |      99.10 |",
        "| student |       98.7 |",
    ]
