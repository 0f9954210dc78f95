import keras, keras_kd as kd
L=keras.layers
m=lambda n: keras.Sequential([L.Input((4,)),L.Dense(3)],name=n)
e=kd.teachers.Ensemble([m("a"),m("b")]); e.save("/tmp/ens.keras")
