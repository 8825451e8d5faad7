"""What the engine does in one step, in its own language, so that no other node comes in between."""

RELEASE = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], '')
return 1
"""
"""Give a lease back and tell who waits, unless it is another's by now.

Takes the lease, its token and the channel. Returns whether it was given back.
"""
KEEP = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
"""Keep a lease for longer, unless it is another's by now.

Takes the lease, its token and milliseconds. Returns whether it is kept.
"""
COUNT = b"""
local key, start, change = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local least, most, keep = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local was = redis.pcall('GET', key)
if type(was) == 'table' then
  redis.call('DEL', key)
  was = false
end
was = was and tonumber(was)
if was and (was ~= math.floor(was) or math.abs(was) > 9007199254740991) then was = false end
local value = was or start
if not value then return false end
if least and value < least then value = least end
if most and value > most then value = most end
local changed = 1
if keep and value + change < keep then changed = 0 else value = value + change end
if value ~= was or ARGV[7] == '1' then
  local text = string.format('%.0f', value)
  if was and ARGV[7] ~= '1' and redis.call('PTTL', key) > 0 then
    redis.call('SET', key, text, 'KEEPTTL')
  else
    redis.call('SET', key, text, 'PX', ARGV[6])
  end
end
return {value, changed}
"""
"""Change a number. What is no number counts as absent, and an empty argument stands for None.

Takes its place, then start, change, the number that it is raised to, the one that it is lowered to,
what is kept, milliseconds to live, and whether they count from now. Returns the number and whether it
was changed by `change`, or nothing if there is none.
"""
