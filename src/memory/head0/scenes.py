"""Rendered cameras: what head 0 is trained on. No footage, no pictures of anything real.

A camera is a textured background seen with sensor noise, a light that drifts (and, with some, steps), things that sway, and
objects that cross the view, stop, and go on. A made-up classifier looks at what is really in the scene, not at the pixels: one
kind says *what* is largest in view, the other *how much* is in view. Its scores carry noise that changes slowly, so its answer
sometimes changes where nothing does, as real models' answers do.
"""
import numpy as np

SIDE = 56  # rendered pixels; a thumbnail's cell is 4 x 4 of them
CELLS = 14
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


def log_uniform(rng, low, high, size=None):
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def blur(picture, width):
    """A box of this width, twice in each direction, around the edges."""
    for _ in range(2):
        for axis in (0, 1):
            wrapped = np.concatenate([picture, np.take(picture, range(width), axis)], axis)
            sums = np.cumsum(wrapped, axis)
            ends, starts = np.arange(width, width + SIDE), np.arange(SIDE)
            picture = (np.take(sums, ends, axis) - np.take(sums, starts, axis)) / width
    return picture


def texture(rng):
    """Structure at three scales and some straight edges, of unit variance."""
    picture = np.zeros((SIDE, SIDE))
    for width, weight in ((2, 0.3), (5, 0.6), (12, 1.0)):
        layer = blur(rng.normal(size=(SIDE, SIDE)), width)
        picture += weight * layer / (layer.std() + 1e-6) * rng.uniform(0.3, 1)
    for _ in range(rng.integers(0, 6)):
        place, angle = rng.uniform(-SIDE, SIDE), rng.uniform(0, np.pi)
        picture += rng.normal() * ((np.cos(angle) * COLUMNS + np.sin(angle) * ROWS) > place)
    return picture / (picture.std() + 1e-6)


class Thing:
    """Something that crosses the view on a straight line: an ellipse with a pattern."""

    def __init__(self, rng, camera):
        heading = camera.heading + rng.choice([0, np.pi]) + rng.normal(0, 0.15)
        direction = np.array([np.cos(heading), np.sin(heading)])
        across = np.array([-direction[1], direction[0]])
        self.radius = camera.size * np.exp(rng.normal(0, 0.4))
        self.other_radius = self.radius * rng.uniform(0.4, 1.2)
        self.step = direction * camera.speed * np.exp(rng.normal(0, 0.3))
        start = SIDE / 2 + self.radius
        self.place = SIDE / 2 - direction * start + across * rng.uniform(-0.35, 0.35) * SIDE
        self.shade = rng.normal() * camera.brightness
        self.pattern = rng.normal(size=2) * 0.25
        self.kind = 0 if rng.uniform() < camera.ignored else rng.integers(1, camera.classes)
        self.rests = 0

    def move(self, rng, stops):
        if self.rests > 0:
            self.rests -= 1
            return
        self.place = self.place + self.step
        if rng.uniform() < stops:
            self.rests = rng.integers(10, 200)

    def in_view(self):
        return -2 * self.radius < self.place[0] < SIDE + 2 * self.radius and \
            -2 * self.radius < self.place[1] < SIDE + 2 * self.radius

    def draw(self, picture, ground):
        """The picture with it, and the share of the view that it takes."""
        dx, dy = COLUMNS - self.place[0], ROWS - self.place[1]
        mask = np.clip(1.75 - 1.5 * np.sqrt((dx / self.radius) ** 2 + (dy / self.other_radius) ** 2), 0, 1)
        waves = self.pattern[0] * np.sin(dx) + self.pattern[1] * np.sin(dy * 1.3)
        return picture * (1 - mask) + mask * (ground + self.shade * (1 + waves)), mask.mean()


class Camera:
    def __init__(self, rng):
        self.ground = rng.uniform(50, 180)
        self.background = self.ground + rng.uniform(8, 50) * texture(rng)
        self.noise = log_uniform(rng, 0.5, 12)
        self.shake = rng.choice([0, 0, 0, rng.uniform(0, 0.6)])
        self.classes = int(rng.integers(2, 11))
        self.says_what = rng.uniform() < 0.6
        self.arrivals = log_uniform(rng, 1 / 400, 1 / 15) * rng.choice([1, 1, 0.3])
        self.speed, self.size = log_uniform(rng, 0.3, 5), log_uniform(rng, 3, 16)
        self.brightness, self.heading = rng.uniform(15, 110), rng.uniform(0, 2 * np.pi)
        self.stops, self.ignored = rng.choice([0, 0.01]), rng.choice([0.0, 0.25])
        self.sway = rng.choice([0, 0, rng.uniform(2, 15)]) * blur((rng.uniform(size=(SIDE, SIDE)) < 0.3) * 1.0, 8)
        self.leaves = texture(rng)
        self.drift, self.light_steps = log_uniform(rng, 3e-4, 2e-2), rng.choice([0, 1 / 700])
        self.sharpness = rng.uniform(2, 8)
        self.doubt, self.inertia = log_uniform(rng, 0.05, 0.9), rng.uniform(0, 0.97)
        self.least_area = log_uniform(rng, 0.005, 0.04)
        self.levels = np.cumsum(log_uniform(rng, 0.01, 0.12, self.classes - 1))

    def scores(self, areas):
        """Of each class, from the share of the view that each kind of thing takes."""
        if self.says_what:
            scores = np.log(np.maximum(areas, 1e-4) / self.least_area) * self.sharpness / 2
            scores[0] = 0
            return scores
        levels = np.log(self.levels)
        middles = [[levels[0] - 1.5], (levels[1:] + levels[:-1]) / 2, [levels[-1] + 0.7]]
        return -self.sharpness * np.abs(np.log(max(areas[1:].sum(), 1e-4)) - np.concatenate(middles))

    def film(self, rng, frames):
        """Thumbnails, frames x 14 x 14, and the classifier's probabilities, frames x classes."""
        thumbnails, scores = np.empty((frames, CELLS, CELLS), np.float32), np.empty((frames, self.classes))
        things, light, doubt = [], 0.0, np.zeros(self.classes)
        for frame in range(frames):
            if rng.uniform() < self.arrivals and len(things) < 8:
                things.append(Thing(rng, self))
            picture, areas = self.background + self.sway * self.leaves * np.sin(frame * 0.35 + COLUMNS * 0.3), np.zeros(self.classes)
            for thing in things:
                thing.move(rng, self.stops)
                picture, area = thing.draw(picture, self.ground)
                areas[thing.kind] += area
            things = [thing for thing in things if thing.in_view()]
            light = 0.999 * light + rng.normal() * self.drift
            if rng.uniform() < self.light_steps:
                light += rng.normal() * 0.12
            picture = picture * np.exp(light)
            if self.shake:
                down, right = rng.normal(size=2) * self.shake
                picture = picture + down * np.gradient(picture, axis=0) + right * np.gradient(picture, axis=1)
            picture = np.clip(picture + rng.normal(size=picture.shape) * self.noise, 0, 255)
            thumbnails[frame] = picture.reshape(CELLS, 4, CELLS, 4).mean((1, 3)).round()
            doubt = self.inertia * doubt + np.sqrt(1 - self.inertia ** 2) * rng.normal(size=self.classes)
            scores[frame] = self.scores(areas) + self.doubt * doubt
        odds = np.exp(scores - scores.max(1, keepdims=True))
        return thumbnails, (odds / odds.sum(1, keepdims=True)).astype(np.float32)
