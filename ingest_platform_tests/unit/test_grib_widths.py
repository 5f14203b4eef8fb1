"""Widths in section 5 that no file has: eccodes would end the process, not the message."""

from datetime import timedelta

import pytest

from ingest_platform.weather import grib
from ingest_platform.weather.unusable import Unusable
from ingest_platform_tests.weather_world import CYCLE, forecast, messages, pocket


@pytest.mark.case(14)
@pytest.mark.parametrize(("octet", "value"), [(20, 200), (32, 62), (37, 128), (47, 128), (48, 9), (49, 77)])
def test_an_impossible_width_is_refused_before_eccodes_sees_it(octet: int, value: int) -> None:
    """Else one damaged byte stops every feed of the process."""
    model = pocket("gfs", ["temperature_2m"])
    content = bytearray(forecast(model, CYCLE, int(timedelta(hours=3) / timedelta(hours=1))).grib)
    (offset, length), *_ = messages(bytes(content))
    section = offset + 16
    while content[section + 4] != 5:
        section += int.from_bytes(content[section : section + 4])
    content[section + octet - 1] = value

    with pytest.raises(Unusable, match="impossible widths"):
        grib.decode(bytes(content[offset : offset + length]), model.parameters[0], "2 m above ground")
