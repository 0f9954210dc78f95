"""One worker, and what is said of several; real ones are in test_cluster.py."""

import pytest

from keras_kd.distribution.workers import WorkerError, Workers, gone_workers_told


def test_without_a_cluster_there_is_one_worker():
    workers = Workers()
    assert (workers.count, workers.index, workers.is_chief) == (1, 0, True)
    assert workers.any(True) and not workers.any()
    assert workers.after_chief(lambda: 3) == 3
    assert not workers.differ("a")


def test_a_lost_worker_is_told_and_other_errors_pass():
    import tensorflow as tf

    # An error in a graph begins like this.
    text = "Graph execution error:\n\nDetected at node x\nConnection reset by peer\nmore"
    lost = tf.errors.UnavailableError(None, None, text)
    alone, two = Workers(), Workers()
    two.count = 2
    with pytest.raises(WorkerError, match="again.*says: Connection reset by peer$"):
        with gone_workers_told(two):
            raise lost
    for workers, error in ((alone, lost), (two, ZeroDivisionError())):
        with pytest.raises(type(error)):
            with gone_workers_told(workers):
                raise error


@pytest.mark.parametrize("told", [("1", "1"), ("1", "2"), ("1", "1", "1"), ("1", "2", "1")])
def test_a_text_that_is_another_one_somewhere(told, monkeypatch):
    """What the workers give, summed as TensorFlow would."""

    class Strategy:
        num_replicas_in_sync = len(told)

    given = []
    for text in told:
        workers = Workers()
        workers.count, workers._strategy = len(told), Strategy
        monkeypatch.setattr(workers, "_summed", lambda x: given.append(x) or x)
        workers.differ(text)
    monkeypatch.setattr(workers, "_summed", lambda x: sum(given))
    assert workers.differ(told[-1]) == (len(set(told)) > 1)
