-- The poll of an endpoint: ARGV = system, the time at which this process left it due ('' never), ms from now at which it
-- is due next (while it is made: its lease), then patience (ms), or '' where the poll is in hand and no other's.
-- Who made the last poll makes the next one; others wait for `patience` after it was due.
-- Answer: the time at which it is due now, '' where it is not to be made or was taken over; ms to wait before that.
local polls, system = P .. 'Polls', ARGV[1]
local due = tonumber(call('ZSCORE', polls, system) or 0)
local mine = due == tonumber(ARGV[2])
if ARGV[4] == '' then
  if not mine then return { '', '0' } end
else
  local wait = due + (mine and 0 or tonumber(ARGV[4])) - NOW
  if wait > 0 then return { '', string.format('%.0f', wait) } end
end
frees()
local next = string.format('%.0f', NOW + ARGV[3])
call('ZADD', polls, next, system)
return { next, '0' }
