"""What people type wrong, and a part of what they should read. A row is a call, an arrow, and a part of the message."""

__all__ = ["ACCEPTED", "COMMANDS", "WRONG"]

WRONG = {
    "numbers": """
shampoo('1e-3') -> learning_rate='1e-3': must be a number
shampoo(-1e-3) -> learning_rate=-0.001: must be at least 0
shampoo(jnp.float32(-1e-3)) -> must be at least 0
shampoo(jnp.nan) -> learning_rate=nan
shampoo(jnp.asarray(jnp.nan)) -> learning_rate=nan
shampoo(float('inf')) -> must be finite
shampoo(jnp.asarray([1e-3, 1e-2])) -> learning_rate=an array of shape (2,)
shampoo(np.asarray([1e-3])) -> learning_rate=an array of shape (1,)
shampoo(None) -> learning_rate=None
soap(10**400) -> must be finite
soap(-10**400) -> must be at least 0
shampoo(P) -> learning_rate=a dict with the keys
shampoo(optax.cosine_decay_schedule) -> If this function makes a schedule, call it
shampoo(optax.adam(1e-3)) -> learning_rate=an Optax transformation
shampoo(True) -> learning_rate=True
shampoo(1e-3, b1=1.0) -> b1=1.0: must be below 1
shampoo(1e-3, b1=-0.1) -> b1=-0.1
shampoo(1e-3, b1='0.9') -> b1='0.9': must be a number
shampoo(1e-3, b2=1.5) -> b2=1.5
shampoo(1e-3, b2=jnp.asarray(2.0)) -> b2=2.0
shampoo(1e-3, eps=-1e-8) -> eps=
shampoo(1e-3, eps='tiny') -> eps='tiny'
shampoo(1e-3, damping=-1.0) -> damping
shampoo(1e-3, damping=relative(1e-6)) -> damping=Damping made by relative()
shampoo(1e-3, damping=jnp.nan) -> nan
shampoo(1e-3, power=4) -> power=1/4
shampoo(1e-3, power=0) -> power=0
shampoo(1e-3, power='quarter') -> power='quarter'
shampoo(1e-3, power=jnp.asarray(0.5)) -> power is an array
shampoo(1e-3, weight_decay=-0.1) -> weight_decay=-0.1
shampoo(1e-3, weight_decay='0.1') -> weight_decay='0.1'
shampoo(1e-3, weight_decay=jnp.asarray([0.1, 0.2])) -> weight_decay=an array of shape (2,)
shampoo(1e-3, block_size=0) -> block_size=0
shampoo(1e-3, block_size=-1) -> block_size=-1
shampoo(1e-3, block_size=12.5) -> block_size=12.5
shampoo(1e-3, block_size='128') -> block_size='128'
shampoo(1e-3, block_size=True) -> block_size=True
shampoo(1e-3, block_size=jnp.asarray(128)) -> block_size is an array
shampoo(1e-3, block_size=(64, 64)) -> block_size=(64, 64)
shampoo(1e-3, refresh=0) -> refresh=0
shampoo(1e-3, refresh=2.5) -> refresh=2.5
shampoo(1e-3, refresh='20') -> refresh='20'
shampoo(1e-3, refresh=precond.every) -> Call this function
shampoo(1e-3, refresh=True) -> refresh=True
shampoo(optax.adam) -> If this function makes a schedule, call it
transforms.hyperball(optax.sgd) -> If this function makes a schedule, call it
kl_soap('1e-3') -> learning_rate='1e-3'
kl_soap(-1.0) -> learning_rate=-1.0
kl_soap(1e-3, b1=1.0) -> b1=1.0
soap(-1.0) -> learning_rate=-1.0
soap(3e-3, b1=2) -> b1=2
soap(3e-3, b2='0.95') -> b2='0.95'
soap(3e-3, eps=-1.0) -> eps=-1.0
soap(3e-3, refresh=-1) -> refresh=-1
kl_shampoo(jnp.float32(jnp.nan)) -> learning_rate=nan
kl_shampoo(1e-3, damping='small') -> damping='small'
kl_shampoo(1e-3, b1=1) -> b1=1
muon('0.02') -> learning_rate='0.02'
muon(0.02, b1=1.0) -> b1=1.0
muon(0.02, adam_b1=-1) -> adam_b1=-1
muon(0.02, adam_learning_rate=-1.0) -> adam_learning_rate=-1.0
muon(0.02, adam_eps='0') -> adam_eps='0'
neumann('0.1') -> learning_rate='0.1'
neumann(0.1, cubic=-1.0) -> cubic=-1.0
neumann(0.1, repulsion='1e-5') -> repulsion='1e-5'
neumann(0.1, warmup=2.5) -> warmup
neumann(0.1, decay=2.0) -> decay=2.0
neumann(0.1, momentum=2.0) -> momentum=2.0
neumann(0.1, weight_decay=-1) -> weight_decay=-1
neumann(0.1, epoch='10') -> epoch='10'
mfac(1e-3, window=0) -> window=0
mfac(1e-3, window=2.5) -> window=2.5
mfac(1e-3, density=0) -> density=0
mfac(1e-3, density=2) -> density=2
mfac(1e-3, damping=-1) -> damping=-1
adascale(optax.sgd(0.1), 0.1, scale=4) -> optimizer=
adascale('sgd', 0.1, scale=4) -> optimizer='sgd'
adascale(optax.sgd, 0.1, scale=0.5) -> scale=0.5
adascale(optax.sgd, -0.1, scale=4) -> schedule=-0.1
adascale(optax.sgd, 0.1, scale='4') -> scale='4'
adascale(optax.sgd, 0.1, 4, estimator=large_batches.paper_gain) -> estimator=
adascale(optax.sgd, 0.1, 4, power=2) -> power=2
kfac(1e-3, LAYERS, damping=-1) -> damping=-1
kfac(1e-3, LAYERS, damping=fractions.Fraction(-1)) -> write float(damping)
kfac(1e-3, LAYERS, bound='1e-3') -> bound='1e-3'
kfac(1e-3, LAYERS, decay=2) -> decay=2
kfac('1e-3', LAYERS) -> learning_rate='1e-3'
ekfac(1e-3, LAYERS, b2=2) -> b2=2
ekfac(1e-3, LAYERS, refresh=precond.every(10)) -> delay=1, and a warmup
shampoo(1e-3, eps=float('inf')) -> eps=inf: must be finite
shampoo(1e-3, damping=float('inf')) -> damping=inf
shampoo(1e-3, eps=True) -> eps=True: must be a number
shampoo(1e-3, b1=[0.9]) -> b1=[0.9]
shampoo(1e-3, b2=jnp.asarray([0.9, 0.99])) -> b2=an array of shape (2,)
shampoo(1e-3, refresh=precond.every(10**12)) -> period=1000000000000: must be below 2**31
precond.scale_by_muon(adam_b1=-1) -> adam_b1=-1
precond.scale_by_neumann(-0.1) -> learning_rate=-0.1
precond.scale_by_neumann(0.1, warmup=jnp.ones(2)) -> warmup
neumann(0.1, warmup=True) -> warmup=True
precond.blocked(optax.identity(), skipped=-1) -> skipped=-1
precond.outer_products(weight=-1.0) -> weight=-1.0
precond.kl(unit=-1.0) -> unit=-1.0
precond.kl(weight=jnp.nan) -> weight=nan
precond.eigenbasis(weight=1j) -> weight=1j
precond.eigenbasis(power={'two': 0.5}) -> its keys count the axes
precond.inverse_root(power={'two': 0.5}) -> its keys count the axes
precond.scale_by_trace(-1.0) -> gamma=-1.0
transforms.scale_by_diagonal(weight=-1.0) -> weight=-1.0
precond.every(lambda count: 'often') -> period=the function <lambda>: gave 'often'
precond.every(lambda count: jnp.ones(3)) -> gave an array of shape (3,)
precond.every(lambda count: float('nan')) -> gave nan
precond.every(lambda count: -5) -> gave -5 for the first step
precond.every(optax.adam) -> gave an Optax transformation
shampoo(lambda step: None) -> learning_rate=the function <lambda>: gave None
shampoo(lambda step: jnp.ones(3)) -> gave an array of shape (3,)
shampoo(1e-3, weight_decay=lambda step: 'x') -> weight_decay=the function <lambda>: gave 'x'
kfac(1e-3, LAYERS, bound=lambda step: (1,)) -> bound=the function <lambda>: gave (1,)
neumann(0.1, momentum=lambda step: None) -> momentum=the function <lambda>: gave None
precond.scale_by_neumann(0.1, resets=lambda i: 'never') -> resets=the function <lambda>: gave 'never'
adascale(optax.sgd, lambda step: None, 2) -> schedule=the function <lambda>: gave None
adascale(optax.sgd, 0.1, 2, rule=lambda gain, scale, step: None) -> rule=the function <lambda>: gave None
large_batches.convexify(variables=lambda p: None)(P, P) -> variables(params)=None
""",
    "names of other libraries": """
shampoo(lr=1e-3) -> learning_rate=
shampoo(1e-3, betas=(0.9, 0.99)) -> b1= and b2=
shampoo(1e-3, beta1=0.9) -> b1=
shampoo(1e-3, beta2=0.99) -> b2=
shampoo(1e-3, eps_root=0.0) -> otherwise=optax.scale_by_adam(eps_root=..)
shampoo(1e-3, epsilon=1e-8) -> eps=
shampoo(1e-3, matrix_epsilon=1e-6) -> damping=
shampoo(1e-3, precondition_frequency=20) -> refresh=precond.every(n)
shampoo(1e-3, preconditioning_compute_steps=20) -> refresh=precond.every(n)
shampoo(1e-3, start_preconditioning_step=5) -> refresh=precond.every(n, start=..)
shampoo(1e-3, max_preconditioner_dim=1024) -> block_size=
shampoo(1e-3, graft_type='ADAM') -> magnitude=
shampoo(1e-3, grafting_config=None) -> magnitude=
shampoo(1e-3, momentum=0.9) -> b1=
shampoo(1e-3, nesterov=True) -> nesterov(b1)
shampoo(1e-3, weight_decay_mask=None) -> mask=
shampoo(1e-3, wd=0.1) -> weight_decay=
shampoo(1e-3, use_decoupled_weight_decay=True) -> decoupled, as in AdamW
shampoo(1e-3, exponent_override=4) -> power=
shampoo(1e-3, mu_dtype=jnp.bfloat16) -> float32 or wider
shampoo(1e-3, best_effort_shape_interpretation=True) -> views=
shampoo(1e-3, distributed_config=None) -> axis=
shampoo(1e-3, dampng=1e-6) -> Did you mean damping=?
shampoo(1e-3, max_grad_norm=1.0) -> Write optax.chain(optax.clip_by_global_norm(..), this optimizer).
shampoo(1e-3, amsgrad=True) -> Write nothing
shampoo(1e-3, gradient_accumulation_steps=4) -> precond.accumulate(
shampoo(1e-3, batch_size=32) -> It takes learning_rate, b1
muon(0.02, adam_lr=1e-3) -> adam_learning_rate=
muon(0.02, adamw_betas=(0.9, 0.95)) -> adam_b1= and adam_b2=
shampoo(1e-3, 0.9, 0.99) -> learning_rate by position
shampoo() -> needs learning_rate=
shampoo(1e-3, learning_rate=1e-3) -> by position and by name
soap(lr=3e-3) -> learning_rate=
soap(3e-3, betas=(0.95, 0.95)) -> b1= and b2=
soap(3e-3, shampoo_beta=0.95) -> b2=
soap(3e-3, precondition_frequency=10) -> refresh=
soap(3e-3, max_precond_dim=10000) -> block_size=
soap(3e-3, merge_dims=True) -> views=
kl_shampoo(lr=1e-3) -> learning_rate=
kl_shampoo(1e-3, beta1=0.9) -> b1=
kl_shampoo(1e-3, graft_type=1) -> magnitude=
muon(lr=0.02) -> learning_rate=
muon(0.02, ns_steps=5) -> newton_schulz
muon(0.02, nesterov=True) -> momentum=
muon(0.02, beta=0.95) -> b1=
neumann(lr=0.1) -> learning_rate=
kl_soap(lr=1e-3) -> learning_rate=
kl_soap(1e-3, betas=(0.9, 0.99)) -> b1= and b2=
recipes.nvidia_muon(b1=0.9) -> no b1=
mfac(1e-3, ngrads=64) -> window=
mfac(lr=1e-3) -> learning_rate=
kfac(1e-3, LAYERS, momentum=0.9) -> b1=
kfac(1e-3, LAYERS, stat_decay=0.95) -> decay=
kfac(1e-3, LAYERS, norm_constraint=1e-3) -> bound=
kfac(1e-3, LAYERS, inverse_update_period=5) -> refresh=
kfac(1e-3, LAYERS, initial_damping=1.0) -> damping=
kfac(1e-3, LAYERS, use_adaptive_damping=True) -> levenberg_marquardt
ekfac(1e-3, LAYERS, epsilon=1e-8) -> damping=
adascale(optax.sgd, 0.1, scale=4, smoothing=0.9) -> estimator=
adascale(optax.sgd, lr=0.1, scale=4) -> schedule=
adascale(optax.sgd, 0.1, num_replicas=4) -> scale=
recipes.meta_shampoo(lr=0.01) -> learning_rate=
recipes.meta_shampoo(precondition_freq=10) -> precondition_frequency=
recipes.meta_shampoo(block_size=128) -> max_preconditioner_dim=
recipes.meta_shampoo(beta1=0.9) -> betas=
recipes.google_shampoo(b1=0.9) -> beta1=
recipes.google_shampoo(graft_type=1) -> grafting=
recipes.official_soap(betas=(0.9, 0.99)) -> b1=
precond.blocked(optax.identity(), blocksize=64) -> block_size=
precond.scale_by_muon(lr=0.02) -> scale_by_muon() takes no lr=
""",
    "without effect": """
transforms.lookahead_ema(1.0, 0.9) -> b1=1.0: must be below 1
transforms.normalize_neurons(1.0) -> decay=1.0: must be below 1
contrib.exponentiated(optax.identity(), rate=0.1, decay=1.0) -> decay=1.0: must be below 1
replicas.adam_metric(optax.scale_by_adam().init(P), b2=1.0) -> b2=1.0: must be below 1
recipes.google_shampoo(0.1, beta1=1.0, moving_average_for_momentum=True) -> beta1=1.0: must be below 1
recipes.google_tearfree(0.1, ema=True, momentum_decay=1.0) -> momentum_decay=1.0: must be below 1
muon(1e-3, b1=0.9, momentum=optax.ema(0.9)) -> b1=0.9 has no effect beside momentum=
muon(1e-3, adam_b1=0.8, otherwise=optax.scale_by_rms()) -> adam_b1=0.8 has no effect beside otherwise=
muon(1e-3, adam_b2=0.8, otherwise=optax.scale_by_rms()) -> adam_b2=0.8 has no effect beside otherwise=
precond.scale_by_muon(adam_eps=0, otherwise=optax.scale_by_rms()) -> adam_eps=0 has no effect beside otherwise=
shampoo(1e-3, eps=1e-8, magnitude=optax.identity(), otherwise=optax.identity()) -> beside magnitude= and otherwise=
kl_shampoo(1e-3, eps=1e-8, otherwise=optax.scale_by_rms()) -> eps=1e-08 has no effect beside otherwise=
kl_shampoo(1e-3, damping=1e-2, root=precond.inverse_root()) -> damping=0.01 has no effect beside root=
kl_shampoo(1e-3, method=precond.eigh(), root=precond.inverse_root()) -> a root has its own method
kfac(1e-3, LAYERS, damping=1e-2, root=precond.eigen_inverse(1e-3)) -> damping=0.01 has no effect beside root=
neumann(1e-3, repulsion=None, variables=optax.tree.size) -> has no effect beside repulsion=None
neumann(1e-3, cubic=None, repulsion=None, decay=0.9) -> decay=0.9 has no effect beside cubic=None and repulsion=None
large_batches.convexify(1.0, None, eps=1e-2) -> eps=0.01 has no effect beside repulsion=None
large_batches.scale_by_neumann(0.1, regularizer=None, decay=0.9) -> decay=0.9 has no effect beside regularizer=None
large_batches.scale_by_neumann(0.1, regularizer=None, regularized_resets=True) -> has no effect beside regularizer=None
""",
    "kinds": """
shampoo(1e-3, method=precond.eigh) -> Call this function
shampoo(1e-3, method='eigh') -> method='eigh': must be of type Method
shampoo(1e-3, method=precond.qr()) -> computes no inverse roots
shampoo(1e-3, method=orthogonal.newton_schulz()) -> method=newton_schulz()
shampoo(1e-3, magnitude='adam') -> magnitude='adam'
shampoo(1e-3, magnitude=optax.scale_by_adam) -> Call this function
shampoo(1e-3, otherwise=optax.adam) -> Call this function
shampoo(1e-3, otherwise='adam') -> otherwise='adam'
shampoo(1e-3, otherwise=3) -> otherwise=3
shampoo(1e-3, mask='kernel') -> mask='kernel'
shampoo(1e-3, weight_decay=0.1, mask='kernel') -> mask='kernel': must be a tree of booleans
shampoo(1e-3, weight_decay=0.1, mask=['kernel']) -> mask=['kernel']
shampoo(1e-3, mask={'kernel': True}) -> no weight_decay=
mfac(1e-3, mask={'kernel': True}) -> no weight_decay=
neumann(1e-3, weight_decay=0.1, mask='kernel') -> mask='kernel'
shampoo(1e-3, views='kernel') -> views='kernel'
shampoo(1e-3, views=3) -> views=3
shampoo(1e-3, views=views.tensors) -> views=the function tensors
shampoo(1e-3, views=views.stacked) -> views=precond.views.stacked is a function that makes views: call it
soap(1e-3, views=views.named) -> views=precond.views.named is a function that makes views: call it
shampoo(1e-3, views=[(b'kernel', None)]) -> paths are strings: write 'kernel'
shampoo(1e-3, views=[('kernel', View((0, 1), row=3))]).init(P) -> View.row=3 of 'kernel'
shampoo(1e-3, views=[('kernel', View((0, 1), passive=None))]).init(P) -> View.passive=None of 'kernel'
precond.views_of(shampoo(1e-3, views=[('kernel', View((0, 1), row=3))]), P) -> View.row=3 of 'kernel'
shampoo(1e-3, views=[('kernel', 3)]) -> 3 for 'kernel'
shampoo(1e-3, views=['kernel']) -> must be a (pattern, view) pair
shampoo(1e-3, views=[('(', None)]) -> not a regular expression
shampoo(1e-3, views=[('kernel', {'shape': (3, 4)})]) -> must have `axes`
soap(1e-3, method=precond.newton()) -> computes no eigenbasis
soap(1e-3, method=precond.qr) -> Call this function
kl_shampoo(1e-3, method=3) -> method=3
muon(1e-3, method=precond.eigh()) -> method=eigh()
muon(1e-3, scale=0.2) -> scale=0.2
muon(1e-3, after='normalize') -> after='normalize'
muon(1e-3, momentum=0.95) -> momentum=0.95
kfac(1e-3, {'kernel': jnp.ones((2, 3))}) -> layers=
kfac(1e-3, jnp.ones(3)) -> layers=an array of shape (3,)
kfac(LAYERS) -> learning_rate=a dict
kfac(1e-3, LAYERS, root=precond.inverse) -> Call this function
kfac(1e-3, LAYERS, root=precond.roots.cholesky()) -> root=cholesky()
precond.blocked('adam') -> inner='adam'
precond.blocked(optax.adam) -> Call this function
precond.blocked(optax.identity(), mesh='data') -> mesh='data'
precond.blocked(optax.identity(), mesh=8) -> mesh=8
precond.scale_by_kronecker(precond.outer_products, precond.inverse_root()) -> statistics=the function outer_products
precond.scale_by_kronecker(precond.outer_products(), precond.inverse_root) -> root=the function inverse_root
precond.scale_by_kronecker(precond.inverse_root(), precond.outer_products()) -> statistics=Root made by inverse_root()
precond.scale_by_kronecker(precond.outer_products(), precond.eigh()) -> root=eigh()
precond.scale_by_kronecker(precond.outer_products(), precond.inverse_root(), precision='highest') -> precision='highest'
precond.shampoo(1e-3, precision='highest') -> precision='highest'
precond.soap(1e-3, tensordot_precision=None) -> Write precision=
precond.kl_shampoo(1e-3, root=precond.eigh()) -> root=eigh()
precond.roots.averaged_eigenvalues(2.0) -> decay=2.0
precond.roots.averaged_eigenvalues(method=precond.newton()) -> method=newton()
precond.large_batches.legw_rule(0) -> warmup=0
precond.large_batches.best_scale(precond.scale_by_adascale(0.1, 2).init(jnp.ones(2)), {}) -> seconds={}
precond.transforms.low_rank(0) -> rank=0
precond.transforms.quadratic_model(optax.identity(), momentum=-1.0) -> momentum=-1.0
precond.layers.joint(precond.layers.gaussian(), weights=(-1.0,)) -> weights=-1.0
precond.scale_by_kronecker(precond.outer_products(), precond.inverse_root(), refresh='20') -> refresh='20'
precond.scale_by_kronecker(precond.outer_products()) -> needs root=
precond.graft(optax.identity(), 'adam') -> magnitude='adam'
precond.graft(optax.identity(), optax.identity(), start=0) -> start=0
precond.graft(optax.identity(), optax.identity(), eps='0') -> eps='0'
precond.with_momentum(0.9, optax.identity()) -> momentum=0.9
precond.with_momentum(optax.ema(0.9), optax.identity) -> inner=the function identity
precond.per_block(optax.ema) -> inner=the function ema
precond.by_layer(optax.identity(), {'a': 3}) -> layers=
precond.every('20') -> period='20'
precond.every(0) -> period=0
precond.every(20, stagger='yes') -> stagger='yes': must be True or False
precond.every(20, delay=2) -> delay=2
precond.every(20, phase=3, stagger=True) -> phase=
precond.every(20, start=0) -> start=0
precond.on_host(2.5) -> period=2.5
precond.ragged('128') -> size='128'
precond.inverse_root(damping=1e-6) -> damping=1e-06
precond.inverse_root(power=-1) -> power=-1
precond.inverse_root(tolerance='0.5') -> tolerance='0.5'
precond.eigenbasis(decay=2) -> decay=2
precond.eigenbasis(method='qr') -> method='qr'
precond.inverse(damping='1e-3') -> damping='1e-3'
precond.inverse(method=precond.qr()) -> computes no inverses
precond.eigen_inverse(method=precond.newton()) -> computes no eigenbasis
precond.corrected_inverse(follow=0.9) -> follow=0.9
precond.shampoo(1e-3, memory='bfloat16') -> memory='bfloat16'
precond.soap(1e-3, memory=precond.Memory) -> memory=
precond.muon(1e-3, memory=jnp.bfloat16) -> memory=
precond.kl_soap(1e-3, memory=precond.Memory(entries=jnp.bfloat16)) -> memory.entries=
precond.kl_shampoo(1e-3, memory=precond.Memory(roots=1)) -> memory.roots=1
precond.roots.store_as(precond.inverse_root) -> root=the function inverse_root
precond.roots.store_as(precond.inverse_root(), 'bf16') -> dtype='bf16'
precond.roots.store_as(precond.inverse_root(), jnp.int8) -> dtype=
precond.relative(-1) -> eps=-1
precond.absolute('1e-12') -> eps='1e-12'
precond.roots.trace_damping(None) -> eps=None
precond.roots.by_platform(precond.qr(), cpu=precond.eigh) -> cpu=the function eigh
precond.roots.by_platform(precond.qr(), cpu=precond.newton()) -> one of them computes roots alone
precond.newton(iterations=0) -> iterations=0
precond.roots.rotations(sweeps=0) -> sweeps=0
precond.rotations(group=0) -> group=0
precond.rotations(group='all') -> group='all'
shampoo(1e-3, method=precond.cholesky_qr()) -> computes no inverse roots
kl_soap(1e-3, method=precond.newton()) -> computes no eigenbasis
muon(0.02, scale=orthogonal.match_rms) -> Call this function
transforms.hyperball('0.01') -> learning_rate='0.01'
transforms.cautious(1) -> inner=1
transforms.with_stochastic_rounding(optax.adamw) -> Call this function
shampoo(1e-3, mesh=MESH) -> mesh= without axis= divides nothing
shampoo(1e-3, weight_decay=0.1, mask=lambda: True) -> mask=the function <lambda>
mfac(1e-3, axis=['data', 2]) -> axis=['data', 2]
shampoo(1e-3, axis='') -> axis=''
mfac(1e-3, axis=optax.adam(1e-3)) -> axis=an Optax transformation
kfac(1e-3, LAYERS, axis=[1, 2]) -> axis=[1, 2]
transforms.finite_steps(optax.identity(), axis=(1,)) -> axis=(1,)
precond.roots.store_as(precond.inverse_root(), None) -> dtype=None
precond.roots.store_as(precond.inverse_root(), jnp.ones(2)) -> dtype=an array
orthogonal.newton_schulz(dtype='half-float') -> there is no such type
layers.dense(inputs=-1) -> inputs=-1
shampoo(1e-3, magnitude=optax.GradientTransformation(lambda p: (), lambda u, s: (u, s))) -> take updates, state, params
shampoo(1e-3, otherwise=optax.GradientTransformation(lambda: (), lambda u, s, p: (u, s))) -> which must take params
shampoo(1e-3, magnitude=optax.stateless(lambda u, p: None)).init(P) -> magnitude= has an update that gives None
shampoo(1e-3, otherwise=optax.stateless(lambda u, p: (u, u))).init(P) -> otherwise= has an update that gives (a dict
shampoo(1e-3, magnitude=optax.GradientTransformation(lambda p: (), lambda u, s, p: u)).init(P) -> where a pair belongs
precond.blocked(optax.stateless(lambda u, p: jnp.ones(3))).init(P) -> inner= has an update that gives an array
muon(1e-3, after=optax.stateless(lambda u, p: None)).init(P) -> after= has an update that gives None
precond.graft(optax.identity(), optax.stateless(lambda u, p: None)).init(P) -> magnitude= has an update that gives None
ENGINE(statistics=optax.identity()) -> statistics= gave an array of shape (1, 4, 3)
ENGINE(root=precond.inverse_root()._replace(init=lambda stack, factors: None)) -> root.init gave None
ENGINE(root=precond.inverse_root()._replace(apply=lambda *given: None)) -> root.apply gave None
ENGINE(root=precond.inverse_root()._replace(refresh=lambda *given: given[0])) -> root.refresh gave
ENGINE(root=precond.inverse_root(power=lambda order: None)) -> power=the function <lambda>: gave None
views.default('kernel', None) -> A view is asked of None
views.tensors()('kernel', 3) -> A view is asked of 3
views.stacked('x')('x/kernel', None) -> A view is asked of None
views.default(('dense', 'kernel'), P['kernel']) -> A view is asked of the path ('dense', 'kernel')
shampoo(1e-3, views=[('kernel', views.tensors)]) -> for 'kernel' a function of path and parameter
muon(1e-3, views=lambda path, leaf: 'kernel').init(P) -> `views` gave 'kernel'
muon(1e-3, views=lambda path, leaf: View(0)).init(P) -> View.axes=0
shampoo(1e-3, views=views.stacked('kernel', 0, otherwise=lambda path, leaf: 3)).init(P) -> `views` gave 3
precond.static_args(TX) -> static_args() was given precond.shampoo(0.001)
layers.dense(outputs=1.5) -> outputs=1.5
transforms.normalize_neurons(over=2.0) -> over=2.0
orthogonal.width(outputs=jnp.ones(2)) -> outputs=
contrib.project_radial(optax.identity(), channel_axis=jnp.ones(2)) -> channel_axis=
views.tensors(min_rank=-1) -> min_rank=-1
views.tensors(max_size=2.5) -> max_size=2.5
precond.roots.last_finite('root') -> root='root'
precond.accumulate(optax.sgd(0.1), 2, layers={'a': 1}) -> layers=
adascale(lambda rate: 3, 0.1, scale=4) -> optimizer(1.0)=3
views.maxtext(scan_axis='1') -> scan_axis='1'
views.stacked('layers', 'first') -> axis='first'
views.named(P) -> nothing in the tree carries names
precond.precision(roots='bf16') -> roots='bf16'
precond.precision(statistics=jax.lax.Precision.DEFAULT) -> statistics=DEFAULT
precond.precision(statistics='highest') -> statistics='highest'
precond.outer_products(2.0) -> decay=2.0
precond.outer_products(0.9, every=0) -> every=0
precond.outer_products(bias_correction='yes') -> bias_correction='yes'
precond.kl('0.9') -> decay='0.9'
precond.activations(decay=-1) -> decay=-1
transforms.scale_by_diagonal(2) -> decay=2
transforms.scale_by_diagonal(momentum=0.9) -> momentum=0.9
transforms.clip_by_rms(-1) -> threshold=-1
transforms.clip_by_kl(optax.identity(), 'fast') -> learning_rate='fast'
transforms.clip_by_kl('kfac', 0.1) -> inner='kfac'
transforms.nesterov(1.0) -> decay=1.0
transforms.lookahead_ema('0.9') -> b1='0.9'
transforms.normalize(-1.0) -> eps=-1.0
transforms.normalize_neurons(over=-1) -> over=-1
transforms.orthogonalize('svd') -> method='svd'
transforms.finite_steps(optax.sgd) -> inner=the function sgd
transforms.switch(0, optax.identity(), optax.identity()) -> start=0
transforms.switch(1, optax.identity(), 3) -> after=3
transforms.error_feedback(0.01) -> compressor=0.01
transforms.block_top_k(0) -> density=0
transforms.sparse_rows(2.0) -> density=2.0
transforms.scale_by_mfac(rows='sparse') -> rows='sparse'
transforms.stochastic_rounding(seed=-1) -> seed=-1
transforms.levenberg_marquardt(optax.sgd(1.0), 1.0) -> make=
transforms.levenberg_marquardt(optax.sgd, 1.0, decay=2) -> decay=2
transforms.quadratic_model(optax.identity(), -1.0) -> damping=-1.0
large_batches.paper_gain(smoothing=1) -> smoothing=1
large_batches.fairscale_gain('0.9') -> smoothing='0.9'
large_batches.growing_momentum(2) -> low=2
large_batches.convexify(-1) -> cubic=-1
large_batches.convexify(eps=0) -> eps=0
large_batches.differenced('sgd') -> inner='sgd'
precond.accumulate(optax.sgd(0.1), 0) -> every_k=0
precond.accumulate(optax.sgd, 2) -> inner=the function sgd
precond.accumulate(optax.sgd(0.1), every_k=2.5) -> every_k=2.5
precond.scale_by_adascale(0.1, 0) -> scale=0
orthogonal.newton_schulz([(1.0,)]) -> polynomials=
orthogonal.newton_schulz(dtype='int8') -> dtype='int8'
orthogonal.newton_schulz(gram='auto') -> gram='auto'
orthogonal.jordan(0) -> steps=0
orthogonal.width(outputs=2) -> outputs=2
orthogonal.match_rms('0.2') -> rms='0.2'
""",
    "devices": """
precond.sharded(3) -> axis=3
precond.sharded([]) -> axis=[]
precond.sharded(('data', 'data')) -> names a mesh axis twice
precond.sharded('data', multiple=0) -> multiple=0
precond.sharded('data', multiple='8') -> multiple='8'
precond.sharded('data', gather_dtype='bf16') -> gather_dtype='bf16'
precond.sharded('data', gather_dtype=jnp.int8) -> gather_dtype=
precond.sharded('data', gather_dtype=optax.identity()) -> rounding=
precond.sharded('data', rounding='bf16') -> rounding='bf16'
precond.sharded('data', roots='model') -> roots=
precond.sharded('data', roots=3) -> roots=3
precond.sharded('data', gradients=3) -> gradients=3
precond.sharded('data', wire='bf16') -> sharded() takes no wire=
precond.by_cost(-1) -> memory=-1
precond.by_cost('2GB') -> memory='2GB'
shampoo(1e-3, axis=3) -> axis=3
shampoo(1e-3, axis=('data', 'data')) -> names a mesh axis twice
shampoo(1e-3, mesh='data') -> mesh='data'
mfac(1e-3, axis='data').update(P, mfac(1e-3).init(P), P) -> axis='data': there is no such axis here
mfac(1e-3, density=0.5, axis='data').update(P, mfac(1e-3, density=0.5).init(P), P) -> axis='data': there is no such
neumann(1e-3, axis='data').update(P, neumann(1e-3).init(P), P) -> axis='data': there is no such axis here
INSIDE(mfac(1e-3, axis='model')) -> axis='model': there is no such axis here
INSIDE(transforms.finite_steps(optax.sgd(0.1), axis=('data', 'model'))) -> axis='model': there is no such axis here
INSIDE(shampoo(1e-3, axis='model')) -> axis=('model',) is not an axis of the mesh
shampoo(1e-3, axis='dta', mesh=MESH).init(P) -> axis=('dta',)
shampoo(1e-3, axis=precond.sharded('data', gradients='dat'), mesh=MESH).init(P) -> 'dat' is not an axis of the mesh
precond.plan(shampoo(1e-3), SHAPES, mesh=8) -> mesh=8
precond.plan(shampoo(1e-3), SHAPES, mesh={'data': 0}) -> mesh['data']=0
precond.plan(shampoo(1e-3), SHAPES, platform='banana') -> platform='banana'
precond.plan(shampoo, SHAPES) -> tx=the function shampoo
precond.plan(shampoo(1e-3, axis='dta'), SHAPES, mesh={'data': 8}) -> axis=('dta',)
precond.plan(shampoo(1e-3), {'kernel': 'x'}) -> params=
precond.state_shardings(shampoo(1e-3), SHAPES, 'data') -> mesh='data'
precond.state_shardings(shampoo(1e-3), SHAPES) -> There is no mesh
precond.views_of('shampoo', SHAPES) -> tx='shampoo'
precond.views_of(TX, MODEL) -> Pass the parameters of a model, not the model
precond.diagnosis.diagnose('float31') -> dtype='float31'
precond.host_refresh(shampoo(1e-3), P) -> refresh=precond.on_host(100)
precond.host_refresh(shampoo, P) -> tx=the function shampoo
precond.host_refresh(shampoo(1e-3, refresh=precond.on_host(2)), P, workers=0) -> workers=0
precond.host_refresh(shampoo(1e-3, refresh=precond.on_host(2)), P, updates='1') -> updates='1'
""",
    "directions": """
shampoo(1e-3, otherwise=optax.adamw(1e-3, mask={'kernel': True, 'bias': False})).init(P) -> otherwise= goes against
shampoo(1e-3, otherwise=optax.masked(optax.adam(1e-3), {'kernel': True, 'bias': True})).init(P) -> goes against
shampoo(1e-3, otherwise=optax.masked(optax.adam(1e-3), lambda p: {'kernel': False, 'bias': True})).init(P) -> goes
kfac(1e-3, LAYERS, otherwise=optax.partition({1: optax.sgd(0.1)}, {'kernel': 1, 'bias': 1})).init(P) -> goes against
muon(1e-3, otherwise=optax.partition({0: optax.identity(), 1: optax.sgd(0.1)}, NDIM)).init(P) -> goes against
precond.blocked(KRONECKER, otherwise=optax.masked(optax.sgd(0.1), NDIM)).init(P) -> otherwise= goes against
precond.graft(optax.masked(optax.sgd(0.1), {'kernel': True, 'bias': True}), optax.scale_by_rms()).init(P) -> against
shampoo(1e-3, otherwise=optax.lbfgs()).init(P) -> otherwise= goes against
shampoo(1e-3, magnitude=optax.polyak_sgd()).init(P) -> magnitude= goes against
soap(1e-3, magnitude=optax.contrib.muon(1e-3)).init(P) -> magnitude= goes against
soap(1e-3, otherwise=optax.stateless(LOOP)).init(P) -> otherwise= goes against
soap(1e-3, otherwise=optax.lookahead(optax.adam(1e-3), 5, 0.5)).init(P) -> otherwise= fails on what it sees here, a dict
shampoo(1e-3, magnitude=optax.masked(optax.identity(), {'kernel': True, 'bias': True})).init(P) -> with the keys '4x3'
shampoo(1e-3, otherwise=optax.stateless(FITTED)).init(P) -> otherwise= goes against
shampoo(1e-3, otherwise=optax.adamw(1e-3)).init(P) -> otherwise= goes against the gradient
shampoo(1e-3, otherwise=optax.sgd(1e-3)).init(P) -> otherwise= goes against the gradient
shampoo(1e-3, otherwise=optax.lamb(1e-3)).init(P) -> otherwise= goes against the gradient
shampoo(1e-3, otherwise=soap(1e-3)).init(P) -> otherwise= goes against the gradient
shampoo(1e-3, otherwise=optax.scale(-1.0)).init(P) -> otherwise= goes against the gradient
jax.jit(shampoo(1e-3, otherwise=optax.adam(1e-3)).init)(P) -> otherwise= goes against the gradient
shampoo(1e-3, magnitude=optax.adam(1e-3)).init(P) -> magnitude= goes against the gradient
soap(1e-3, otherwise=optax.adamw(1e-3)).init(P) -> otherwise= goes against the gradient
kl_shampoo(1e-3, otherwise=optax.adam(1e-3)).init(P) -> otherwise= goes against the gradient
muon(1e-3, otherwise=optax.adamw(1e-3)).init(P) -> otherwise= goes against the gradient
muon(1e-3, after=optax.sgd(1.0)).init(P) -> after= goes against the gradient
muon(1e-3, momentum=optax.sgd(1.0, momentum=0.9)).init(P) -> momentum= goes against the gradient
kfac(1e-3, LAYERS, otherwise=optax.adamw(1e-3)).init(P) -> otherwise= goes against the gradient
kl_soap(1e-3, otherwise=optax.adamw(1e-3)).init(P) -> otherwise= goes against the gradient
precond.blocked(shampoo(1e-3)) -> inner=precond.shampoo(0.001) cuts parameters into blocks itself
precond.blocked(muon(1e-3)) -> cuts parameters into blocks itself
precond.blocked(precond.blocked(optax.identity())) -> cuts parameters into blocks itself
precond.blocked(recipes.meta_shampoo(1e-3)) -> cuts parameters into blocks itself
precond.blocked(optax.sgd(1e-3)).init(P) -> inner= goes against the gradient
precond.blocked(optax.identity(), otherwise=optax.adam(1e-3)).init(P) -> otherwise= goes against the gradient
precond.blocked(KRONECKER, otherwise=optax.adam(1e-3)).init(P) -> otherwise= goes against the gradient
adascale(lambda rate: optax.scale_by_adam(), 0.1, 2).init(P) -> optimizer(1.0)= goes along the gradient
adascale(lambda: optax.sgd(0.1), 0.1, 2) -> optimizer=the function <lambda>: must take 1 argument
transforms.levenberg_marquardt(lambda damping: optax.scale_by_adam(), 1.0).init(P) -> make(damping)= goes along
transforms.levenberg_marquardt(lambda damping: None, 1.0).init(P) -> make(damping)=None
transforms.levenberg_marquardt(lambda: None, 1.0).init(P) -> make=the function <lambda>: must take 1 argument
contrib.project_radial(optax.adam(1e-3), weight_decay=0.1).init(P) -> inner= goes against the gradient
precond.scale_by_kfac(LAYERS, around=lambda direction: optax.adam(1e-3)).init(P) -> around= goes against the gradient
precond.scale_by_kfac(LAYERS, around=lambda: None) -> around=the function <lambda>: must take 1 argument
precond.graft(shampoo(1e-3), optax.scale_by_adam()).init(P) -> direction= goes against the gradient
precond.graft(optax.scale_by_rms(), optax.adam(1e-3)).init(P) -> magnitude= goes against the gradient
precond.with_momentum(optax.sgd(0.1), optax.identity()).init(P) -> momentum= goes against the gradient
ADASCALE.update(P, ADASCALE.init(P), P, replica=3) -> needs the extra argument replicas
adascale(optax.sgd, 0.1, 2, power=0.5, rule=large_batches.linear_rule) -> rule=the function linear_rule: a rule stands
precond.with_momentum(transforms.scale_by_diagonal(0.99), optax.ema(0.9)) -> order is with_momentum(momentum, inner)
shampoo(1e-3).init(TENSORS) -> params= has
TX.update(TENSORS, STATE, P) -> updates= has
precond.with_momentum(KRONECKER, optax.ema(0.9)) -> the order is with_momentum(momentum, inner)
KRONECKER.init(P) -> precond.blocked(
KRONECKER.init({'kernel': jnp.ones((8, 4))}) -> 'kernel' of shape (8, 4) is a parameter
KRONECKER.init({'conv': {'kernel': jnp.ones((3, 3, 8, 4))}}) -> 'conv/kernel' of shape (3, 3, 8, 4)
""",
    "trees": """
shampoo(1e-3).init({'kernel': 'dense'}) -> params= has 'dense' at 'kernel'
shampoo(1e-3).init(MIXED) -> params= has the keys 0 and 'a' in one dictionary, which JAX cannot sort
mfac(1e-3).init({'deep': [MIXED]}) -> at 'deep/0'
TX.update(MIXED, STATE, MIXED) -> updates= has the keys 0 and 'a'
TX.update(P, MIXED, P) -> state= has the keys 0 and 'a'
precond.views_of(TX, MIXED) -> params= has the keys 0 and 'a'
precond.plan(TX, MIXED) -> params= has the keys 0 and 'a'
precond.checkpoints.adopt(TX, P, MIXED) -> state= has the keys 0 and 'a'
precond.metrics(STATE, MIXED) -> params= has the keys 0 and 'a'
layers.explicit({'a': layers.dense()}, MIXED) -> params= has the keys 0 and 'a'
precond.metrics(jax.eval_shape(TX.init, P)) -> state= has a shape without numbers at
precond.checkpoints.adopt(TX, P, jax.eval_shape(TX.init, P)) -> state= has a shape without numbers at
precond.checkpoints.by_path(TX, P, jax.eval_shape(TX.init, P)) -> state= has a shape without numbers at
large_batches.eval_params(jax.eval_shape(neumann(0.1).init, P), P) -> state= has a shape without numbers at
shampoo(1e-3).init({'steps': jnp.zeros(3, int)}) -> 'steps' is of int32
shampoo(1e-3).init(MODEL) -> Pass the parameters of a model, not the model
shampoo(1e-3, views=[('kernel', View((0, 5)))]).init(P) -> View.axes=(0, 5)
shampoo(1e-3, views=lambda path, leaf: 3).init(P) -> `views` gave 3
TX.update(STATE, P, P) -> The order is tx.update(gradients, state, params)
TX.update(P, P, STATE) -> The order is tx.update(gradients, state, params)
TX.update((1.0, P), STATE, P) -> as jax.value_and_grad returns
TX.update({'kernel': P['kernel']}, STATE, P) -> The gradients have no 'bias'
TX.update({**P, 'more': P['bias']}, STATE, P) -> The parameters have no 'more'
TX.update({**P, 'bias': 'none'}, STATE, P) -> updates= has 'none' at 'bias'
TX.update(P, STATE, {**P, 'bias': 'none'}) -> params= has 'none' at 'bias'
TX.update(P, None, P) -> state=
TX.update(jax.tree.map(lambda x: x > 0, P), STATE, P) -> gradients are floating-point numbers
TX.update({**P, 'kernel': jnp.ones((4, 3), int)}, STATE, P) -> 'kernel' is of int32
TX.update({**P, 'bias': np.array(['a', 'b', 'c'])}, STATE, P) -> updates= has an array of shape (3,) and <U1 at 'bias'
shampoo(1e-3).init({'a': np.array([1.0, 2.0], dtype=object)}) -> params= has an array of shape (2,) and object at 'a'
shampoo(1e-3, weight_decay=0.1).update(P, shampoo(1e-3, weight_decay=0.1).init(P)) -> needs the parameters
shampoo(1e-3, views=[('kernel', View((0, 1), row='bias', row_axes=(1,)))]).init(P) -> View.row_axes=(1,)
shampoo(1e-3, views=[('kernel', View((0, 1), row='biass'))]).init(P) -> did you mean 'bias'
shampoo(1e-3, weight_decay=0.1, mask={'kernle': True}).init(P) -> mask= has 'kernle'
shampoo(1e-3, weight_decay=0.1, mask={'kernel': True}).init(P) -> mask= has no 'bias'
shampoo(1e-3, weight_decay=0.1, mask=lambda p: p).init(P) -> mask= has an array
neumann(1e-3, weight_decay=0.1, mask=lambda p: None).init(P) -> mask= has no 'bias'
shampoo(1e-3, otherwise=optax.adam(optax.linear_schedule(0.0, 1e-3, 9))).init(P) -> otherwise= goes against
shampoo(1e-3, magnitude=optax.MultiSteps(optax.sgd(0.1), 4)).init(P) -> goes against
transforms.switch(3, optax.adam(1e-3), optax.scale_by_adam()).init(P) -> before= goes against
precond.blocked(optax.chain(precond.scale_by_shampoo())).update(P, NESTED, P) -> runs within another one
TX.update({'kernel': P['kernel'], 'bias': jnp.ones((3, 3))}, STATE) -> bias' has the shape (3,), not (3, 3)
TX.update({'kernel': P['kernel'] * 1j, 'bias': P['bias']}, STATE, P) -> is complex, and the parameter is real
TX.update(SHAPES, STATE, P) -> updates= has a shape without numbers at
TX.update(P, jax.eval_shape(TX.init, P), P) -> state= has a shape without numbers at
TX.update(P, STATE, SHAPES) -> params= has a shape without numbers at
recipes.primal_averaging().update(P, STATE, P) -> state= is of precond.shampoo
precond.transforms.scale_by_mfac(2).update(P, precond.transforms.scale_by_mfac(2).init({'w': P['kernel']}), P) -> state=
neumann(1e-3).update(P, neumann(1e-3).init({'kernel': P['kernel'], 'bias': P['kernel']}), P) -> state=
precond.checkpoints.adopt(TX, P, TX.update(P, STATE, P)) -> pass the second of it
precond.checkpoints.adopt(TX, P, STATE, renamed=lambda path: 3) -> renamed= has 3 for 'bias'
precond.checkpoints.adopt(TX, P, STATE, renamed={'kernel': 'bias', 'bias': 'bias'}) -> renamed= gives 'bias' to several
precond.checkpoints.adopt(TX, P, {'parameters': [], 'others': {}}) -> state['parameters'] is
precond.checkpoints.adopt(TX, P, {'parameters': {'kernel': 3}, 'others': {}}) -> state['parameters']['kernel'] is 3
precond.checkpoints.adopt(TX, 'params', STATE) -> params= has 'params'
precond.checkpoints.adopt(TX, P, None) -> state=None: must be the state of an optimizer
precond.checkpoints.adopt(TX, P, P) -> state= has nothing of these parameters in it
precond.checkpoints.adopt(TX, P, 'path/to/checkpoint') -> state='path/to/checkpoint'
precond.checkpoints.adopt(TX, P, TX) -> and not the state that it made
precond.checkpoints.adopt(TX, STATE, P) -> The order is adopt(tx, params, state)
precond.checkpoints.adopt(TX, P, STATE, renamed={'kernle': 'kernel'}) -> renamed= has the new path 'kernle'
precond.checkpoints.adopt(TX, P, STATE, renamed={'kernel': 'kernle'}) -> 'kernel' was 'kernle'
precond.checkpoints.adopt(TX, P, STATE, b1=2) -> b1=2
precond.checkpoints.by_path(TX, P, P) -> state= is not of this optimizer
precond.checkpoints.by_path(TX, P, optax.adam(1e-3).init(P)) -> state= is not of this optimizer
precond.checkpoints.by_path(TX, P, soap(1e-3).init(P)) -> state= is not of this optimizer
precond.checkpoints.by_path(TX, {'kernel': P['kernel']}, STATE) -> the parameters without blocks have other paths
TX.update(P, optax.adamw(1e-3).init(P), P) -> state=
shampoo(optax.linear_schedule(1e-3, 0, 9)).update(P, STATE, P) -> it has no '1/1/count'
transforms.with_stochastic_rounding(optax.adamw(1e-3)).update(P, optax.sgd(0.1).init(P), P) -> it has no 'count'
transforms.hyperball(0.1).update(P, optax.sgd(0.1).init(P), P) -> it has no 'count'
transforms.cautious(optax.scale_by_adam()).update(P, optax.sgd(0.1).init(P), P) -> it has no 'count'
transforms.finite_steps(optax.sgd(0.1)).update(P, optax.sgd(0.1).init(P), P) -> it has no 'skipped'
transforms.error_feedback(transforms.block_top_k(0.5)).update(P, optax.sgd(0.1).init(P), P) -> of another optimizer
transforms.normalize_neurons().update(P, optax.sgd(0.1).init(P), P) -> it has no 'moment
transforms.scale_by_diagonal().update(P, optax.sgd(0.1).init(P), P) -> it has no 'count'
transforms.nesterov().update(P, optax.sgd(0.1, momentum=0.9).init(P), P) -> state= is of optax.sgd, as it seems
transforms.switch(3, optax.identity(), optax.scale_by_rms()).update(P, (), P) -> it has no 'count'
precond.graft(optax.scale_by_adam(), optax.identity()).update(P, optax.sgd(0.1).init(P), P) -> it has no 'count'
precond.with_momentum(optax.ema(0.9), optax.identity()).update(P, optax.sgd(0.1).init(P), P) -> it has no 'momentum/
TX.update(P, soap(1e-3).init(P), P) -> state=
TX.update(P, shampoo(1e-3, block_size=2).init(P), P) -> state=
TX.update({'kernel': P['kernel'].T, 'bias': P['bias']}, STATE, P) -> 'kernel'
TX.update({'kernel': P['kernel'].T, 'bias': P['bias']}, STATE) -> state=
KFAC.update(P, KFAC.init(P), P) -> needs factors=
KFAC.update(P, KFAC.init(P), P, factor={}) -> It was given factor=
KFAC.update(P, KFAC.init(P), P, factors=P) -> factors=a dict
KFAC.update(P, KFAC.init(P), P, factors={'': (jnp.ones((1, 4, 4)), jnp.ones((1, 3, 3)))}) -> those of 4 inputs
KFAC.update(P, KFAC.init(P), P, factors={}) -> factors=
KFAC.init({'other': jnp.ones((2, 2))}) -> layers=
ADASCALE.update(P, ADASCALE.init(P), P) -> needs the extra argument replicas
ADASCALE.update(P, ADASCALE.init(P), P, replicas=8) -> replicas=8
neumann(0.1).update(P, neumann(0.1).init(P)) -> params
precond.metrics(TX) -> where its state belongs
precond.metrics(None) -> no state of an optimizer in it
precond.metrics({}) -> no state of an optimizer in it
precond.metrics(STATE, STATE) -> The order is metrics(state, params)
precond.metrics(STATE, {'other': jnp.ones((2, 3))}) -> params= has none of the parameters
precond.metrics(jax.tree.map(lambda x: 'x', STATE)) -> state= has 'x' at
mfac(1e-3).init({'steps': jnp.ones(3, int)}) -> 'steps' is of int32
shampoo(1e-3).init({'kernel': P['kernel'].astype(jnp.float8_e4m3fn)}) -> 'kernel' is of float8_e4m3fn
muon(1e-3).init({'bias': P['bias'].astype(jnp.float8_e4m3fn)}) -> 'bias' is of float8_e4m3fn
mfac(1e-3).init({'bias': P['bias'].astype(jnp.float8_e4m3fn)}) -> 'bias' is of float8_e4m3fn
neumann(1e-3).init({'bias': P['bias'].astype(jnp.float8_e4m3fn)}) -> 'bias' is of float8_e4m3fn
adascale(optax.sgd, 1e-3, scale=2).init({'bias': P['bias'].astype(jnp.float8_e4m3fn)}) -> 'bias' is of float8_e4m3fn
precond.by_layer(optax.identity(), LAYERS).update(P, (), factors={'dense': (1, 1)}) -> outside of
TX.update({**P, 'bias': P['bias'].astype(jnp.float8_e5m2)}, STATE, P) -> The gradient of 'bias' is of float8_e5m2
neumann(1e-3).update({**P, 'bias': P['bias'] * 1j}, neumann(1e-3).init(P), P) -> The gradient of 'bias' is complex
mfac(1e-3).update({**P, 'bias': P['bias'] * 1j}, mfac(1e-3).init(P), P) -> The gradient of 'bias' is complex
neumann(1e-3).init({'steps': jnp.ones(3, int)}) -> 'steps' is of int32
adascale(optax.sgd, 0.1, 2).init({'steps': jnp.ones(3, int)}) -> 'steps' is of int32
precond.metrics(P) -> no state of an optimizer in it
large_batches.done(STATE, 10) -> done()
large_batches.eval_params(STATE, P) -> eval_params
shampoo(1e-3, views=[('kernle', None)]).init(P) -> 'kernle' does not match the path of any parameter
shampoo(1e-3, views=views.stacked('layres', 0)).init(P) -> 'layres' does not match the path of any parameter
""",
    "capture": """
layers.sampled(layers.categorical) -> likelihood=the function categorical
layers.sampled(layers.categorical(), samples=0) -> samples=0
layers.exact('gaussian') -> likelihood='gaussian'
layers.exact(layers.Likelihood(lambda key, outputs: outputs)) -> needs a likelihood with a root
layers.gaussian(-1.0) -> variance=-1.0
layers.gaussian('1') -> variance='1'
layers.gaussian(0) -> variance=0: must be above 0
CAPTURE.attach({'weights': jnp.ones(3)}) -> params= has no 'kernel', for which the capture has factors
CAPTURE_NNX.apply(nnx.state(NNX, nnx.Param), {"count": 1}, X) -> rest= has other variables than the model
linen.capture(MODEL, VARIABLES, X, rules={nn.Dense: lambda m, x, args: None}) -> Dense a rule that gave None
linen.capture(MODEL, VARIABLES, X, rules={nn.Dense: lambda m: None}) -> rules[Dense]=the function <lambda>: must take 3
nnx_front.capture(NNX, X, rules={nnx.Linear: lambda m: 3}) -> rules= has for Linear a rule that gave 3
layers.value_grad_factors(lambda p: p, LOSS, CAPTURE, fisher=layers.empirical())(P, X) -> forward=the function <lambda>
layers.value_grad_factors(F, lambda o: o, CAPTURE, fisher=layers.empirical())(P, X) -> must take 2 arguments
layers.value_grad_factors(F, lambda o, x: o.sum() > 0, CAPTURE, fisher=layers.empirical())(P, X) -> one real number
layers.value_grad_factors(F, lambda o, x: o.sum() * 1j, CAPTURE, fisher=layers.empirical())(P, X) -> and complex64
FACTORS(F, examples=lambda o, x: None)(P, X) -> examples(..)=None
layers.value_grad_factors(F, LOSS, CAPTURE, fisher=layers.sampled(layers.gaussian()))(P, X, key=KEYS) -> one random key
layers.joint(layers.categorical, layers.gaussian()) -> joint() is given the function categorical
layers.joint() -> no likelihoods
layers.factors_alone(lambda p, x: (F(p, x), x), CAPTURE, fisher=layers.exact(layers.gaussian()))(P, X) -> joint(
layers.factors_alone(F, CAPTURE, fisher=layers.exact(layers.joint(layers.gaussian())))(P, X) -> Return a tuple of 1
layers.factors_alone(F, CAPTURE, fisher=layers.exact(layers.gaussian()))(P, X[:0]) -> The batch is empty
layers.factors_alone(lambda p, x: F(p, x).sum(), CAPTURE, fisher=layers.exact(layers.gaussian()))(P, X) -> a scalar
layers.value_grad_factors(F, LOSS, CAPTURE, fisher='empirical') -> fisher='empirical'
layers.value_grad_factors(F, LOSS, CAPTURE, fisher=layers.empirical) -> fisher=the function empirical
layers.value_grad_factors(F, LOSS, LAYERS, fisher=layers.empirical()) -> capture=
layers.value_grad_factors(F, LOSS, CAPTURE) -> needs fisher=
layers.value_grad_factors(F, 3, CAPTURE, fisher=layers.empirical()) -> loss=3
layers.value_grad_factors(lambda p, x: x @ p['kernel'], LOSS, CAPTURE, fisher=layers.empirical())(P, X) -> capture.apply
layers.value_grad_factors(F, LOSS, CAPTURE, fisher=layers.sampled(layers.gaussian()))(P, X) -> key=
layers.value_grad_factors(lambda p, x: None, LOSS, CAPTURE, fisher=layers.empirical())(P, X) -> no outputs
layers.factors_alone(F, CAPTURE, fisher=layers.empirical()) -> fisher=empirical()
layers.value_grad_factors(F, LOSS, CAPTURE, fisher=layers.empirical())(X, P) -> The first argument has no 'kernel'
layers.value_grad_factors(F, LOSS, CAPTURE, fisher=layers.empirical())({'kernel': P['kernel']}, X) -> has no 'bias'
layers.value_grad_factors(F, lambda o, x: o, CAPTURE, fisher=layers.empirical())(P, X) -> loss= returned an array
layers.value_grad_factors(F, lambda o, x: (o.sum(), o), CAPTURE, fisher=layers.empirical())(P, X) -> loss= returned
layers.value_grad_factors(F, LOSS, CAPTURE, fisher=layers.empirical(), has_aux=True)(P, X) -> has_aux=True takes a pair
layers.value_grad_factors(F, LOSS, CAPTURE, fisher=layers.sampled(layers.gaussian()))(P, X, key=0) -> key=0: must be
layers.joint(layers.categorical(), 'gaussian') -> joint() is given 'gaussian'
layers.explicit({'': layers.dense(inputs=2)}, P) -> fewer axes than a contraction
CAPTURE.apply('first', P, X, X) -> the layers are ''
linen.capture(MODEL, VARIABLES, X, batch=-1) -> batch=-1
linen.capture(MODEL, VARIABLES, X, batch=5) -> batch=5
nnx_front.capture(NNX) -> Give capture() an example
nnx_front.attached(CAPTURE, NNX) -> model=
layers.with_fisher(F, layers.empirical()) -> fisher=empirical()
layers.factors_alone(lambda p, x: F(p, x)[:, :1], CAPTURE, fisher=layers.exact(layers.categorical()))(P, X) -> have one
FACTORS(lambda p, x: jax.jvp(lambda z: F(p, z), (x,), (x,))[1])(P, X) -> a derivative of the model with its taps
FACTORS(lambda p, x: jax.linearize(lambda z: F(p, z), x)[1](x))(P, X) -> a derivative of the model with its taps
FACTORS(F, examples=-1)(P, X) -> examples=-1
layers.explicit({'': layers.dense}, P) -> Call this function
layers.explicit({'': 'dense'}, P) -> kinds= has 'dense'
layers.explicit(layers.dense(), P) -> kinds=
layers.explicit({'a': layers.dense()}, P) -> the parameters have no 'a/kernel'
layers.explicit({'': layers.dense(bias=False)}, P) -> allow_uncovered=
layers.explicit({'': layers.dense()}, P, allow_uncovered=['embeding']) -> allow_uncovered= has 'embeding'
layers.explicit({'': layers.dense()}, P, allow_uncovered='bias') -> allow_uncovered='bias'
layers.explicit({'': layers.dense()}, P, sharing='expand') -> sharing='expand'
layers.explicit({'': layers.dense()}, P, sharing=[('nomatch', layers.expand)]) -> sharing= has 'nomatch'
layers.explicit({'': layers.dense()}, P, sharing=[('.', 'expand')]) -> sharing=
layers.doubly_factored(channels=0) -> channels=0
layers.einsum('ab', ndim=2) -> einsum
linen.capture(MODEL, X, VARIABLES) -> variables=
linen.capture(MODEL, VARIABLES['params'], X) -> variables= has no 'params'
linen.capture(MODEL, VARIABLES) -> Give capture() an example
linen.capture(MODEL, VARIABLES, X, rules={'Dense': linen.RULES[nn.Dense]}) -> rules= has the key 'Dense'
linen.capture(NNX, VARIABLES, X) -> must be of type flax
linen.capture(nn.Dense, VARIABLES, X) -> model=the class Dense
nnx_front.capture(MODEL, X) -> must be of type flax
nnx_front.capture(NNX, X, rules={'Linear': None}) -> rules= has the key 'Linear'
nnx_front.capture(NNX, X, allow_uncovered=['kernle']) -> allow_uncovered= has 'kernle'
replicas.over_groups(jax.value_and_grad(LOSS), 4) -> f=
replicas.over_groups(replicas.gradients(LOSS), 0) -> groups=0
replicas.over_micro_batches(replicas.gradients(LOSS), 1.5) -> steps=1.5
replicas.gradients(3) -> loss=3
replicas.gradients(LOSS, has_aux='yes') -> has_aux='yes'
replicas.over_groups(replicas.gradients(lambda w, x: jnp.mean(w * x)), 3)(1.0, jnp.ones(4)) -> groups=3
""",
    "recipes": """
recipes.meta_shampoo(-0.01) -> learning_rate=-0.01
recipes.meta_shampoo('0.01') -> learning_rate='0.01'
recipes.meta_shampoo(betas=0.9) -> betas=0.9
recipes.meta_shampoo(betas=(0.9,)) -> betas=(0.9,)
recipes.meta_shampoo(betas=(2.0, 0.99)) -> betas[0]=2.0
recipes.meta_shampoo(precondition_frequency=0) -> 0
recipes.meta_shampoo(grafting='adam') -> grafting='adam'
recipes.meta_shampoo(nesterov='yes') -> nesterov='yes'
recipes.meta_shampoo(root=recipes.meta_eigh()) -> root=
recipes.meta_soap(epsilon='1e-12') -> epsilon='1e-12'
recipes.meta_soap(method='qr') -> method='qr'
recipes.google_shampoo(grafting='adagrad') -> grafting='adagrad'
recipes.google_shampoo(grafting=lambda: None) -> grafting()=None
recipes.google_shampoo(grafting=optax.adam) -> grafting=the function adam: must take no arguments
recipes.google_shampoo(root=lambda epsilon: None) -> must take 1 argument and power=
recipes.google_shampoo(root=lambda epsilon, power: (1, 2)) -> root=(1, 2): must be of type Root
recipes.meta_shampoo(root=precond.inverse_root) -> root=the function inverse_root: must take 1 argument and power=
recipes.meta_shampoo(root=lambda epsilon, power: jnp.ones(3)) -> root=an array of shape (3,)
recipes.meta_shampoo(grafting=optax.stateless(lambda u, p: None)).init(P) -> has an update that gives None
recipes.google_shampoo(beta1=2.0) -> beta1=2.0
recipes.google_shampoo(block_size=0) -> 0
recipes.google_shampoo(start_preconditioning_step=-1) -> start_preconditioning_step=-1
recipes.google_shampoo(learning_rate='0.1') -> learning_rate='0.1'
recipes.google_shampoo(learning_rate=-0.1) -> learning_rate=-0.1
recipes.official_soap('3e-3') -> learning_rate='3e-3'
recipes.official_soap(-3e-3) -> learning_rate=-0.003
recipes.official_soap(precondition_frequency=0) -> 0
recipes.official_soap(precondition_1d='no') -> precondition_1d='no'
recipes.official_soap(b1=1.5) -> b1=1.5
recipes.official_soap(merge=-1) -> merge=-1
recipes.official_soap(weight_decay=-0.1) -> weight_decay=-0.1
recipes.official_soap(max_precond_dim=2.5) -> max_precond_dim=2.5
recipes.nvidia_kl_soap(-1.0) -> learning_rate=-1.0
recipes.nvidia_kl_soap(1e-3, betas=(1.5, 0.9)) -> betas[0]=1.5
recipes.nvidia_kl_soap(1e-3, eps=-1.0) -> eps=-1.0
recipes.meta_soap(1e-3, betas=(0.9, 1.5)) -> betas[1]=1.5
recipes.meta_soap(1e-3, epsilon=-1.0) -> epsilon=-1.0
recipes.meta_descent(1e-3, beta1=-1.0) -> beta1=-1.0
recipes.google_shampoo(weight_decay=-0.1) -> weight_decay=-0.1
recipes.google_shampoo(skip_preconditioning_rank_lt=-1) -> min_rank=-1
recipes.google_shampoo(merge_small_dims_block_size=True) -> merge_small_dims_block_size=True
recipes.meta_shampoo(trace_scaling=-1.0) -> trace_scaling=-1.0
recipes.meta_soap(trace_scaling=jnp.ones(2)) -> trace_scaling=
recipes.primal_averaging(train='0.9') -> train='0.9'
""",
}
"""By theme: calls, and a part of the message of each."""

COMMANDS = """
plan -> Name one model
plan --preset gpt -> needs --width and --layers
plan --preset bert --width 64 --layers 2 -> invalid choice: 'bert'
plan --preset gpt --width 0 --layers 2 -> whole number of at least 1
plan --preset gpt --width wide --layers 2 -> whole number of at least 1
plan --preset gpt --width 64 --layers 2 --experts 4 -> no size of --preset gpt
plan --preset gpt --width 64 --layers 2 --platform banana -> invalid choice: 'banana'
plan --preset gpt --width 64 --layers 2 --optimizer adam -> invalid choice: 'adam'
plan --preset gpt --width 64 --layers 2 --refresh 0 -> --refresh
plan --preset gpt --width 64 --layers 2 --devices 0 -> --devices
plan --preset gpt --width 64 --layers 2 --dtype float31 -> floating-point type
plan --preset gpt --width 64 --layers 2 --dtype int8 -> floating-point type
plan --preset gpt --width 64 --layers 2 --mesh data -> name
plan --preset gpt --width 64 --layers 2 --mesh data=2 --axis dta -> --axis dta
plan --preset gpt --width 64 --layers 2 --mesh data=2 --gradients dta -> --gradients dta
plan --preset gpt --width 64 --layers 2 --method qr -> --method qr
plan --preset gpt --width 64 --layers 2 --at-once -> --at-once needs --refresh
plan --preset gpt --width 64 --layers 2 --step-ms 10 -> --step-ms needs --flops-per-s
plan --preset gpt --width 64 --layers 2 --flops-per-s -1 -> --flops-per-s
plan --preset gpt --width 64 --layers 2 --optimizer muon --refresh 3 -> Muon has no roots
plan --preset gpt --width 64 --layers 2 --optimizer kfac --block-size 3 -> --block-size
plan --shapes nowhere.json -> nowhere.json
doctor --dtype float31 -> floating-point type
"""
"""Words on the command line, and a part of what stands on the standard error."""

ACCEPTED = {
    "optax.chain(shampoo(1e-3), soap(1e-3))": "the chain is Optax's, which calls neither of the two differently",
    "optax.chain(shampoo(1e-3), optax.scale(-1e-3))": "the chain is Optax's",
    "precond.blocked(optax.clip_by_global_norm(1.0)).init(P)": "it clips the blocks of each device by themselves",
    "shampoo(lambda step: -1e-3)": "a schedule has no value before training, as in Optax",
    "jax.jit(lambda rate: shampoo(rate).init(P))(-1.0)": "a traced number is not known, as in Optax",
}
"""What is accepted, and why."""
